"""Test the training of the foundation: a small one is trained, goes on, and becomes the start of a training."""

import json

import numpy as np
import pytest
import soundfile
import train_foundation
from conftest import melody
from tunes import tune

from continuo.codec.vectors import RATE_HZ
from continuo.model import checkpoint
from continuo.symbolic.writing import write_musicxml


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """Return the flags of a training on six recordings, of which one is held out, and a score; the model is tiny."""
    for seed in range(6):
        (tmp_path / "audio" / f"kind{seed % 2}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "audio" / f"kind{seed % 2}" / f"{seed}.wav"
        soundfile.write(path, np.stack([melody(seed, 7.0, RATE_HZ)] * 2, axis=1), RATE_HZ)
    (tmp_path / "scores").mkdir()
    write_musicxml(tune(3), tmp_path / "scores" / "tune.musicxml", title="tune")
    monkeypatch.setattr(train_foundation, "RECORDING_OF", 6)
    plain = train_foundation.foundation_metadata

    def tiny(minutes, seed):
        made = plain(minutes, seed)
        small = made.architecture.model_copy(update={"hidden": 16, "head_width": 16, "onset_memory": 8})
        training = made.training.model_copy(update={"batch_size": 4, "window": 16, "precision": "float32"})
        return made.model_copy(update={"architecture": small, "training": training})

    monkeypatch.setattr(train_foundation, "foundation_metadata", tiny)
    flags = ["--audio", str(tmp_path / "audio"), "--scores", str(tmp_path / "scores")]
    return [*flags, "--out", str(tmp_path / "out")]


@pytest.mark.slow
def test_train_foundation_trains_goes_on_and_packs_a_state(words, tmp_path, capsys):
    out = tmp_path / "out"
    assert train_foundation.main([*words, "--minutes", "0.02"]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "28 pieces" in said.err  # five recordings in five keys, and a score in three versions
    assert "held out: 1 pieces" in said.err
    assert list(json.loads((out / "styles.json").read_text())) == ["recorded audio-kind1-5.wav"]
    tensors, facts = checkpoint.load_model(out / "foundation.safetensors")
    assert not any(name.startswith(("weights.", "optimizer.")) for name in tensors)
    assert tensors["featurizer.settled"]
    steps = facts["progress"].step
    assert steps > 0

    before = {path: path.stat().st_mtime_ns for path in (out / "codes").iterdir()}
    assert len(before) == 7
    assert train_foundation.main([*words, "--minutes", "0.04"]) == 0, capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (out / "codes").iterdir()} == before
    assert checkpoint.read_facts(out / "foundation.safetensors")["progress"].step > steps


def test_train_foundation_refuses_bad_input(words, tmp_path, capsys):
    for extra in (["--minutes", "-1"], ["--minutes", "inf"], ["--scores", str(tmp_path / "nothing")]):
        assert train_foundation.main([*words, *extra]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
