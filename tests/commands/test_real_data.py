"""Test training and prediction with real recordings by others, judged by audio metrics."""

import json

import numpy as np
import pytest
import soundfile
from conftest import set_flags

import corpus
from continuo.model import checkpoint
from continuo.model.metadata import CorpusSection
from evaluation import audio_metrics
from predict import main as predict
from train import main as train

QUICK = {
    "representation.adaptation_steps": 40,
    "architecture.hidden": 256,
    "architecture.head_width": 256,
    "training.stray_rows": 0,  # as when the bounds were set: half of the rows would learn something else than the loss
}


@pytest.mark.slow
def test_A01_every_shared_recording_is_read_or_explained(shared_data):
    loaded = corpus.load(CorpusSection(path=str(shared_data / "audio" / "orchestral-gpl"), sample_rate_hz=24000))
    assert len(loaded.pieces) == 11
    assert [name for name, reason in loaded.skipped if "silent" in reason] == ["silence.ogg"]
    loud = corpus.load(CorpusSection(path=str(shared_data / "audio" / "rock-cc0"), sample_rate_hz=24000))
    assert len(loud.pieces) == 3
    assert all(np.isfinite(piece.read(0, 240_000)).all() for piece in loud.pieces)


@pytest.mark.slow
def test_train_real_piano_is_learned_and_continued(shared_data, tmp_path, capsys):
    """Train 600 steps on nine piano pieces: most continuations are not silent and as loud as the prompt."""
    meta = tmp_path / "piano.json"
    flags = ["--meta", str(meta), "--corpus", str(shared_data / "audio" / "piano-cc0"), "--steps", "600", "--quiet"]
    assert train([*flags, "--device", "cpu", "--json", *set_flags(QUICK)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    history = checkpoint.read_facts(tmp_path / "piano.safetensors")["progress"].history
    assert result["best_nats"] < 0.9 * history[0][3]  # the first validation is at step 120
    assert result["best_nats"] < 0.7 * 3 * np.log(1024)  # nats of codes drawn at random
    (held_out,) = checkpoint.read_facts(tmp_path / "piano.safetensors")["validation"]
    whole, rate = soundfile.read(shared_data / "audio" / "piano-cc0" / held_out, dtype="float32", always_2d=True)
    whole *= 0.7 / np.abs(whole).max()  # silence is measured against full scale, and the playing is soft
    prompt, real = whole[: 6 * rate, 0], whole[6 * rate : 14 * rate, 0]
    soundfile.write(tmp_path / "prompt.wav", prompt, rate)
    theirs = audio_metrics.statistics(real, rate)
    takes = []
    for seed in range(11):  # a take may fade out or become loud for a while: the median of eleven is judged
        out = tmp_path / f"{seed}.wav"
        made = ["--meta", str(meta), "--prompt", str(tmp_path / "prompt.wav"), "--frames", "500", "--seed", str(seed)]
        assert predict([*made, "--continuation-only", "--out", str(out), "--quiet", "--device", "cpu"]) == 0
        made_samples, made_rate = soundfile.read(out, dtype="float32", always_2d=True)
        takes.append(audio_metrics.statistics(made_samples.mean(axis=1), made_rate))
    ours = {name: float(np.median([take[name] for take in takes])) for name in theirs}
    assert ours["silence"] < 0.1
    assert ours["onsets_per_s"] >= 0.25 * theirs["onsets_per_s"]  # a soft note may not count as an onset
    assert 0.5 < ours["flux"] / theirs["flux"] < 2
    assert abs(ours["drift_db"]) < 12
