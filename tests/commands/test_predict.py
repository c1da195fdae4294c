"""Test prediction as a user runs it, from prompt to WAV and picture, also while training runs."""

import itertools
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import HOP, RATE_HZ, ROOT, SMALL_CODEC, SMALL_OF, melody, set_flags, train_small
from stereo import both, make_wide

import predict as predict_script
import takes
from continuo.audio.pictures import draw_continuation
from continuo.audio.piece import Piece
from continuo.model import checkpoint, metadata
from continuo.system.files import locked
from continuo.system.process_pool import process_map
from predict import main
from predictor import Predictor, joined
from train import main as train

PROMPT = ROOT / "examples" / "prompt.musicxml"


@pytest.fixture
def prompt_wav(tmp_path):
    path = tmp_path / "prompt.wav"
    soundfile.write(path, melody(11, seconds=2.013), RATE_HZ)
    return path


def predict(meta, prompt, out, *flags) -> int:
    return main(["--meta", str(meta), "--prompt", str(prompt), "--out", str(out), "--device", "cpu", "--quiet", *flags])


@pytest.mark.parametrize("preset", SMALL_OF)
def test_A04_predict_every_preset_continues(tmp_path, music_folder, prompt_wav, preset, capsys):
    """Continue with every representation and every architecture."""
    meta = train_small(tmp_path, music_folder, preset, steps=2)
    out = tmp_path / "out.wav"
    assert predict(meta, prompt_wav, out, "--frames", "50", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    audio, rate = soundfile.read(out)
    prompt, _ = soundfile.read(prompt_wav)
    predictor = Predictor.load(meta)
    assert rate == predictor.sample_rate_hz
    assert len(audio) == math.ceil(len(prompt) * rate / RATE_HZ) + 50 * predictor.featurizer.hop
    assert result["seconds"] == pytest.approx(len(audio) / rate)
    assert result["prompt_seconds"] == pytest.approx(len(prompt) / RATE_HZ, abs=1 / rate)
    assert result["frames"] == 50
    assert result["state_step"] == 2
    assert result["realtime_factor"] > 0
    assert result["first_audio_s"] > 0
    assert np.abs(audio[len(prompt) :]).max() > 0.001


@pytest.mark.parametrize("join_s", [0.0, 0.01])
@pytest.mark.parametrize("samples", [1, 300, 512, 513, 600, 1100, 4000])
def test_draw_continuation_of_the_shortest_sound_makes_a_picture(tmp_path, samples, join_s):
    """A sound of one window once had a picture without width, and matplotlib warned."""
    soundfile.write(tmp_path / "short.wav", np.zeros(samples), RATE_HZ)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw_continuation(tmp_path / "short.wav", tmp_path / "short.png", join_s, "short")
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")


def test_A08_predict_musicxml_prompt_writes_audio_and_picture(trained, tmp_path):
    """N1: Go from MusicXML to audio to a continuation in one command."""
    out = tmp_path / "song.wav"
    assert predict(trained, PROMPT, out, "--frames", "60") == 0
    audio, _ = soundfile.read(out)
    alone = tmp_path / "alone.wav"
    assert predict(trained, PROMPT, alone, "--frames", "0") == 0
    prompt, _ = soundfile.read(alone)
    written = round(32 * 60 / 92 * RATE_HZ)  # 32 quarter notes at 92 a minute: where the continuation begins
    assert len(audio) == written + 60 * HOP
    assert len(prompt) > written  # a prompt alone includes the decay of the last chord
    kept = written - 4 * HOP
    np.testing.assert_array_equal(audio[:kept], prompt[:kept])
    for picture in (out.with_suffix(".png"), alone.with_suffix(".png")):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("validations", "step", "words"),
    [
        (1, 400, ""),
        (2, 400, ": longer training still helps"),
        (3, 500, ", better than step 500 on held-out music"),
        (6, 900, ", better than step 900 on held-out music: more recordings help most; longer training does not"),
    ],
)
def test_validation_trend_is_named_after_the_second_validation(validations, step, words):
    history = [[200 * (n + 1), 1.0, 9.0, 9.0] for n in range(validations)]
    facts = {"progress": checkpoint.Progress(0, 0.0, history, best_step=400 if validations > 1 else None)}
    predictor = SimpleNamespace(facts=facts, weights_step=400, step=step, modality="sound")
    assert predict_script._validation_trend(predictor) == words


@pytest.mark.parametrize(
    ("modality", "begun_with", "warns"), [("sound", "", True), ("sound", "b", False), ("notes", "", False)]
)
def test_first_weights_of_sound_from_nothing_are_said_to_make_noise(modality, begun_with, warns):
    facts = {"progress": checkpoint.Progress(0, 0.0, []), "begun_with": begun_with}
    predictor = SimpleNamespace(facts=facts, weights_step=23, step=23, modality=modality)
    assert (predict_script._validation_trend(predictor) == ": expect noise, and wait for step 120 or so") == warns


@pytest.mark.parametrize(
    ("preset", "channels"), [("codec-lstm", 1), ("spectral-lstm", 1), ("spectral-lstm", 2), ("codec-lstm", 2)]
)
def test_A08_channels_out_of_phase_are_learned_and_continued(tmp_path, preset, channels):
    """The mean of such channels is silence, which models of mono learned where the corpus was read in stereo."""
    (tmp_path / "music").mkdir()
    for seed in range(3):
        sound = np.stack([melody(seed), -melody(seed)], axis=1)
        soundfile.write(tmp_path / "music" / f"{seed}.wav", sound, RATE_HZ)
    extra = ("--set", f"corpus.channels={channels}")
    predictor = Predictor.load(train_small(tmp_path, tmp_path / "music", preset, steps=1, extra=extra))
    prompt = predictor.prompt(tmp_path / "music" / "1.wav")
    assert (prompt.channels, predictor.channels) == ((2, 2) if (preset, channels) == ("codec-lstm", 2) else (1, 1))
    read = predictor.featurizer._read(prompt, 0, len(prompt.samples)) / prompt.gain
    assert read.std() == pytest.approx(melody(1).std(), rel=0.01)
    whole = np.concatenate([*joined(predictor.take(prompt), prompt, 0)])
    assert whole.std() == pytest.approx(melody(1).std(), rel=0.01)


@pytest.mark.usefixtures("stub_pictures")
def test_A09_continuation_only_equals_the_end_of_the_whole(trained, prompt_wav, tmp_path):
    predict(trained, prompt_wav, tmp_path / "a.wav", "--frames", "40")
    predict(trained, prompt_wav, tmp_path / "b.wav", "--frames", "40", "--continuation-only")
    whole, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    alone, _ = soundfile.read(tmp_path / "b.wav", dtype="int16")
    assert len(alone) == 40 * HOP
    np.testing.assert_array_equal(alone, whole[-len(alone) :])


@pytest.mark.usefixtures("stub_pictures")
def test_predict_same_seed_gives_same_bytes_and_another_seed_other_music(trained, prompt_wav, tmp_path):
    for name, seed in [("a", "3"), ("b", "3"), ("c", "4")]:
        predict(trained, prompt_wav, tmp_path / f"{name}.wav", "--frames", "30", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_predict_takes_equal_single_takes_of_their_seeds(trained, prompt_wav, tmp_path, capsys):
    assert predict(trained, prompt_wav, tmp_path / "t.wav", "--frames", "30", "--takes", "3", "--json") == 0
    songs = json.loads(capsys.readouterr().out.splitlines()[-1])["songs"]
    assert [song["out"] for song in songs] == [str(tmp_path / f"t-{number}.wav") for number in (1, 2, 3)]
    assert all((tmp_path / f"t-{number}.png").exists() for number in (1, 2, 3))
    predict(trained, prompt_wav, tmp_path / "alone.wav", "--frames", "30", "--seed", "1")
    assert (tmp_path / "t-2.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()
    assert (tmp_path / "t-1.wav").read_bytes() != (tmp_path / "t-2.wav").read_bytes()


@pytest.mark.usefixtures("stub_pictures")
def test_predict_lines_about_several_takes_begin_with_the_file_name(trained, prompt_wav, tmp_path, capsys):
    flags = ["--meta", str(trained), "--prompt", str(prompt_wav), "--out", str(tmp_path / "t.wav"), "--device", "cpu"]
    assert main([*flags, "--frames", "3", "--takes", "2", "--until-end"]) == 0
    said = capsys.readouterr().err.splitlines()
    for number in (1, 2):
        assert (
            sum(line.startswith(f"{tmp_path / f't-{number}.wav'}: the piece has not ended yet") for line in said) == 1
        )
        assert sum(line.startswith(f"{tmp_path / f't-{number}.wav'}: ") for line in said) == 2
    assert not [line for line in said if line.startswith("the piece")]


@pytest.mark.slow
def test_predict_takes_in_two_processes_equal_the_takes_alone(trained, prompt_wav, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(takes, "MIN_PROCESS_STEPS", 1000)
    monkeypatch.setattr(takes, "WORKERS", 2)
    used = []
    monkeypatch.setattr(takes, "process_map", lambda *work: used.append(work[-1]) or process_map(*work))
    flags = ["--meta", str(trained), "--prompt", str(prompt_wav), "--out", str(tmp_path / "t.wav"), "--device", "cpu"]
    assert main([*flags, "--frames", "30", "--takes", "5", "--json"]) == 0
    out, said = capsys.readouterr()
    songs = json.loads(out.splitlines()[-1])["songs"]
    assert used == [2]
    assert [song["out"] for song in songs] == [str(tmp_path / f"t-{number}.wav") for number in range(1, 6)]
    assert all((tmp_path / f"t-{number}.png").exists() for number in range(1, 6))
    assert all(f"t-{number}.wav: " in said for number in range(1, 6))
    for number in (1, 4):
        predict(trained, prompt_wav, tmp_path / "alone.wav", "--frames", "30", "--seed", str(number - 1), "--force")
        assert (tmp_path / f"t-{number}.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()


@pytest.mark.usefixtures("stub_pictures")
def test_predict_at_temperature_zero_is_the_same_for_all_seeds(trained, prompt_wav, tmp_path):
    for seed in ("1", "2"):
        predict(trained, prompt_wav, tmp_path / f"{seed}.wav", "--frames", "30", "--seed", seed, "--temperature", "0")
    assert (tmp_path / "1.wav").read_bytes() == (tmp_path / "2.wav").read_bytes()


@pytest.mark.usefixtures("stub_pictures")
def test_predict_flags_override_temperatures_of_the_metadata(trained, prompt_wav, tmp_path):
    """Temperatures may change after a training; takes from other processes use them too."""
    still = tmp_path / "still.json"
    changed = metadata.load(trained, {"sampling.coarse_temperature": 0, "sampling.fine_temperature": 0})
    metadata.save(changed, still)
    shutil.copy(metadata.state_path(changed, trained), tmp_path)
    natural = ["--coarse-temperature", "1", "--fine-temperature", "1"]
    for name, meta, flags in (
        ("a", still, ["--seed", "1"]),
        ("b", still, ["--seed", "2"]),
        ("c", still, natural),
        ("d", trained, []),
    ):
        predict(meta, prompt_wav, tmp_path / f"{name}.wav", "--frames", "30", *flags)
    a, b, c, d = ((tmp_path / f"{name}.wav").read_bytes() for name in "abcd")
    assert a == b
    assert a != d
    assert c == d
    predictor = Predictor.load(still)
    assert pickle.loads(pickle.dumps(predictor)).sampling == predictor.sampling


def test_A09_samples_in_chunks_equal_samples_at_once(trained):
    predictor = Predictor.load(trained)
    prompt = Piece.from_samples(melody(4), RATE_HZ)
    whole = predictor.take(prompt, seed=5)
    once = np.concatenate([*whole.samples(37), whole.finish()])
    parts = predictor.take(prompt, seed=5)
    pieces = [np.concatenate([*parts.samples(n)]) for n in (1, 1, 5, 30)]
    assert np.array_equal(once, np.concatenate([*pieces, parts.finish()]))
    assert len(once) == 37 * HOP + parts.overlap_samples


def test_A09_joined_has_no_click_at_the_join(trained):
    """The second difference of the signal around the join is at most 1.5 times the largest elsewhere."""
    predictor = Predictor.load(trained)
    for seed in range(5):
        prompt = Piece.from_samples(melody(seed)[: 77_000 + 31 * seed], RATE_HZ)
        audio = np.concatenate([*joined(predictor.take(prompt, seed=seed), prompt, 100)])
        bend = np.abs(np.diff(audio, 2))
        join = len(prompt.samples)
        assert bend[join - 200 : join + 8].max() <= 1.5 * max(bend[: join - 300].max(), bend[join + 300 : -300].max())


def test_write_take_in_stereo_begins_with_both_channels_of_the_prompt(trained, tmp_path, monkeypatch):
    make_wide(monkeypatch)
    predictor, prompt = Predictor.load(trained), Piece.from_samples(both(4), RATE_HZ)
    requests = [takes.TakeRequest(tmp_path / "take.wav", 40), takes.TakeRequest(tmp_path / "prompt.wav", 0)]
    report, unchanged = (takes.write_take(predictor, prompt, request) for request in requests)
    whole, alone = (soundfile.read(request.out, dtype="int16")[0].astype(int) for request in requests)
    assert (report.channels, unchanged.channels) == (2, 2)
    assert report.seconds == pytest.approx((len(alone) + 40 * HOP) / RATE_HZ)
    assert whole.shape == (len(alone) + 40 * HOP, 2)
    overlap = predictor.take(prompt).overlap_samples
    np.testing.assert_array_equal(whole[: len(alone) - overlap], alone[:-overlap])
    assert np.abs(alone - both(4) * 32768).max() <= 1
    made = whole[len(alone) :]
    assert np.abs(made).max() > 300
    assert np.abs(made[:, 0] - 2 * made[:, 1]).max() <= 2
    assert (tmp_path / "take.png").stat().st_size > 5000


@pytest.mark.usefixtures("stub_pictures")
def test_predict_mono_prompt_of_a_stereo_model_is_in_both_channels(trained, prompt_wav, tmp_path, monkeypatch, capsys):
    predict(trained, prompt_wav, tmp_path / "one.wav", "--frames", "30", "--json")
    make_wide(monkeypatch)
    predict(trained, prompt_wav, tmp_path / "two.wav", "--frames", "30", "--json")
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (one["channels"], two["channels"]) == (1, 2)
    assert (one["seconds"], one["frames"]) == (two["seconds"], two["frames"])
    mono, stereo = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in ("one", "two"))
    np.testing.assert_array_equal(stereo[:, 0], mono)
    start = len(soundfile.read(prompt_wav)[0]) - Predictor.load(trained).take(None).overlap_samples
    np.testing.assert_array_equal(stereo[:start, 1], mono[:start])


@pytest.mark.usefixtures("stub_pictures")
@pytest.mark.parametrize("prompt_channels", [1, 2])
def test_A15_default_preset_trains_and_continues_in_stereo(tmp_path, prompt_channels):
    (tmp_path / "music").mkdir()
    for seed in range(3):
        soundfile.write(tmp_path / "music" / f"{seed}.wav", both(seed), RATE_HZ)
    meta = train_small(tmp_path, tmp_path / "music", "codec-lstm", steps=3)
    samples = both(9) if prompt_channels == 2 else both(9)[:, 0]
    soundfile.write(tmp_path / "prompt.wav", samples, RATE_HZ)
    assert predict(meta, tmp_path / "prompt.wav", tmp_path / "take.wav", "--frames", "60") == 0
    whole, alone = (soundfile.read(tmp_path / f"{name}.wav", always_2d=True)[0] for name in ("take", "prompt"))
    assert whole.shape == (len(alone) + 60 * HOP, 2)
    start = len(alone) - 3 * HOP
    assert np.abs(whole[:start] - alone[:start]).max() < 1e-4
    made = whole[len(alone) :]
    assert np.abs(made).max() > 0.01
    assert np.abs(made[:, 0] - made[:, 1]).max() > 1e-3


def test_joined_stereo_prompt_of_a_mono_model_is_mixed(trained):
    predictor, samples = Predictor.load(trained), both(4)
    prompt = Piece.from_samples(samples, RATE_HZ)
    audio = np.concatenate([*joined(predictor.take(prompt), prompt, 20)])
    assert audio.shape == (len(samples) + 20 * HOP,)
    start = len(samples) - predictor.take(None).overlap_samples
    np.testing.assert_allclose(audio[:start], samples[:start].mean(axis=1), atol=1e-7)


def test_A09_take_has_the_loudness_of_the_prompt(trained):
    predictor = Predictor.load(trained)
    prompts = [Piece.from_samples(melody(6) * gain, RATE_HZ) for gain in (1.0, 2**-7, 0.01)]
    a, b, c = (np.concatenate([*joined(predictor.take(prompt, seed=1), prompt, 60)]) for prompt in prompts)
    np.testing.assert_array_equal(b, a * 2**-7)
    assert np.linalg.norm(c) == pytest.approx(0.01 * np.linalg.norm(a), rel=0.01)  # its phases differ by rounding


def test_A07_prompt_codes_mean_what_the_codes_of_training_mean(trained):
    """The prompt has the scale that training gave the same samples, and codes that mean nearly the same.

    Codes depend on those of the frames before, so they equal only where these begin at the same place.
    """
    predictor = Predictor.load(trained)
    piece = Piece.from_samples(melody(2)[: HOP * 100 + 4 * HOP], RATE_HZ)
    as_prompt = predictor.featurizer.encode_prompt(piece)
    as_training = predictor.featurizer.encode(piece)[2:-2]
    assert (as_prompt == as_training)[:, 0].float().mean() > 0.4
    ours, theirs = map(predictor.featurizer.codec.components, (as_prompt, as_training))
    assert (ours - theirs).norm() < 0.2 * theirs.norm()  # quantization alone moves them by 0.3


def test_A07_take_frames_differ_from_each_other(trained):
    take = Predictor.load(trained).take(Piece.from_samples(melody(2), RATE_HZ), seed=0)
    steps = torch.stack([*take.steps(60)])
    assert len(steps.unique(dim=0)) > 10


def test_A07_predictor_uses_the_latest_average_until_the_held_out_loss_rises(trained, tmp_path):
    for file in trained.parent.glob("model.*"):
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    state = tmp_path / "model.safetensors"
    tensors, facts = checkpoint.load(state)
    name = "out_proj.weight"
    for best_step, part in [(facts["progress"]["history"][-1][0], "average"), (4, "best")]:
        tensors[f"best.{name}"] = tensors[f"average.{name}"] + 1
        progress = facts["progress"] | {"best_step": best_step}
        checkpoint.save(state, tensors, facts | {"progress": progress})
        predictor = Predictor.load(tmp_path / "model.json")
        assert predictor.weights_step == (12 if part == "average" else 4)
        assert torch.equal(predictor.model.state_dict()[name], tensors[f"{part}.{name}"])


def ending_model(trained, folder, bias: float):
    """Copy the trained model with another logit of an ending, `bias`."""
    tensors, facts = checkpoint.load(trained.with_suffix(".safetensors"))
    for weights in ("average", "best"):
        tensors[f"{weights}.ending.bias"] = torch.full((1,), bias)
        tensors[f"{weights}.ending.weight"] = torch.zeros_like(tensors[f"{weights}.ending.weight"])
    checkpoint.save(folder / "ending.safetensors", tensors, facts)
    metadata = json.loads(trained.read_text()) | {"state": "ending.safetensors"}
    (folder / "ending.json").write_text(json.dumps(metadata))
    return folder / "ending.json"


@pytest.mark.usefixtures("stub_pictures")
def test_A09_predict_after_an_ending_begins_another_piece_or_stops(trained, prompt_wav, tmp_path, capsys):
    meta = ending_model(trained, tmp_path, bias=-2.0)  # an end about every eight steps
    flags = ["--meta", str(meta), "--prompt", str(prompt_wav), "--frames", "300", "--device", "cpu", "--json"]
    assert main([*flags, "--out", str(tmp_path / "on.wav")]) == 0
    captured = capsys.readouterr()
    going_on = json.loads(captured.out.splitlines()[-1])
    assert "another one begins" in captured.err
    assert going_on["frames"] == 300
    assert len(going_on["endings_s"]) > 2
    assert min(going_on["endings_s"]) >= 2  # an ending within two seconds of the prompt does not count
    assert main([*flags, "--out", str(tmp_path / "end.wav"), "--until-end", "--continuation-only"]) == 0
    ended = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended["endings_s"] == going_on["endings_s"][:1]
    assert ended["frames"] == round(ended["endings_s"][0] * RATE_HZ / HOP) < 300
    assert soundfile.info(tmp_path / "end.wav").frames == ended["frames"] * HOP


@pytest.mark.usefixtures("stub_pictures")
def test_predict_an_ending_at_once_waits_two_seconds(trained, prompt_wav, tmp_path):
    meta = ending_model(trained, tmp_path, bias=50.0)
    flags = ["--meta", str(meta), "--prompt", str(prompt_wav), "--frames", "400", "--device", "cpu", "--until-end"]
    assert main([*flags, "--quiet", "--out", str(tmp_path / "end.wav")]) == 0
    made, rate = soundfile.read(tmp_path / "end.wav")
    assert len(made) == soundfile.info(prompt_wav).frames + math.ceil(2 * rate / HOP) * HOP


def test_packed_model_predicts_and_starts_trainings_but_cannot_resume(trained, music_folder, tmp_path, capsys):
    from demo_model import pack

    small = tmp_path / "small"
    pack(trained, small)
    assert sorted(path.name for path in small.iterdir()) == [
        "chorales.card.md",
        "chorales.json",
        "chorales.safetensors",
    ]
    state = small / "chorales.safetensors"
    assert state.stat().st_size < 0.25 * trained.with_suffix(".safetensors").stat().st_size
    whole, packed = Predictor.load(trained), Predictor.load(small / "chorales.json")
    piece = Piece.from_samples(melody(7), RATE_HZ)
    codes = whole.featurizer.encode(piece)
    assert (packed.featurizer.encode(piece) == codes).float().mean() > 0.8
    with torch.no_grad():
        begin = whole.model.initial_state(1)
        costs = [p.model.nll(codes[None, :-1], codes[None, 1:], begin)[0].sum(-1).mean() for p in (whole, packed)]
    assert abs(costs[1] - costs[0]) < 0.01 * costs[0]
    flags = ["--corpus", str(music_folder), "--steps", "99", "--device", "cpu", "--quiet"]
    assert train(["--meta", str(small / "chorales.json"), *flags]) == 2
    assert "with another --meta and --from" in capsys.readouterr().err
    begun = ["--set", "training.batch_size=4", "--set", "training.window=16", "--steps", "1", "--device", "cpu"]
    mine = ["--meta", str(tmp_path / "mine.json"), "--from", str(state), "--corpus", str(music_folder)]
    assert train([*mine, *begun, "--set", "representation.adaptation_steps=0", "--quiet"]) == 0


def test_A11_predict_without_a_model_uses_the_demo_model(tmp_path, prompt_wav, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--prompt", str(prompt_wav), "--frames", "3", "--device", "cpu"]
    assert main([*words, "--out", "a.wav", "--json"]) == 0
    captured = capsys.readouterr()
    assert "there is no model.json in this folder: the demo model (Bach chorales) is used" in captured.err
    assert "held-out" not in captured.err  # nobody trains it further
    assert json.loads(captured.out.splitlines()[-1])["state_step"] > 1000
    assert soundfile.info(tmp_path / "a.wav").samplerate == 44_100
    with locked(tmp_path / "model.safetensors", "held"):
        assert main([*words, "--out", "b.wav"]) == 0
    assert "a training still prepares model.json: the demo model" in capsys.readouterr().err
    demo = os.path.relpath(predict_script.DEMO_MODEL)
    assert main([*words, "--out", "c.wav", "--meta", demo]) == 0
    said = capsys.readouterr().err
    assert "model.json" not in said
    assert "held-out" not in said
    (tmp_path / "model.json").write_text("{}")
    assert main([*words, "--out", "d.wav"]) == 2
    assert "model.json" in capsys.readouterr().err


@pytest.mark.slow
def test_A07_predict_during_a_training_uses_later_steps(tmp_path, music_folder, prompt_wav):
    """Each prediction of a second process uses a later step than the one before, and training is not disturbed.

    Where a later state has the same best weights, the report says so and the sound is the same.
    """
    values = SMALL_CODEC | {"training.checkpoint_every_s": 0.3, "training.learning_rate": 1e-4}
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--meta",
        str(tmp_path / "model.json"),
        "--device",
        "cpu",
        "--quiet",
    ]
    command += ["--corpus", str(music_folder), "--steps", "1000000", *set_flags(values)]
    trainer = subprocess.Popen(command)
    try:
        state = tmp_path / "model.safetensors"
        deadline = time.monotonic() + 120
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        steps, weights = [], []
        for number in range(3):
            out = tmp_path / f"{number}.wav"
            run = [sys.executable, str(ROOT / "predict.py"), "--meta", str(tmp_path / "model.json")]
            run += ["--prompt", str(prompt_wav), "--frames", "20", "--out", str(out), "--json", "--device", "cpu"]
            done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
            result = json.loads(done.stdout.splitlines()[-1])
            steps.append(result["state_step"])
            weights.append(result["weights_step"])
            assert trainer.poll() is None
            time.sleep(1)
        assert steps == sorted(set(steps))
    finally:
        trainer.terminate()
        assert trainer.wait(timeout=60) == 0
    audio = [(tmp_path / f"{number}.wav").read_bytes() for number in range(3)]
    assert len(set(weights)) > 1
    assert [a == b for a, b in itertools.pairwise(audio)] == [a == b for a, b in itertools.pairwise(weights)]


@pytest.mark.usefixtures("stub_pictures")
def test_A07_predict_without_the_corpus_works(tmp_path, music_folder, prompt_wav):
    music = tmp_path / "music"
    shutil.copytree(music_folder, music)
    meta = train_small(tmp_path, music, steps=2)
    shutil.rmtree(music)
    assert predict(meta, prompt_wav, tmp_path / "o.wav", "--frames", "5") == 0


@pytest.mark.usefixtures("stub_pictures")
@pytest.mark.parametrize("ending", ["flac", "ogg", "aiff"])
def test_A08_predict_audio_prompts_of_any_rate_and_channels(trained, tmp_path, ending, capsys):
    path = tmp_path / f"p.{ending}"
    stereo = np.stack([melody(1, rate_hz=44100)] * 2, axis=1)
    soundfile.write(path, stereo, 44100)
    assert predict(trained, path, tmp_path / "o.wav", "--frames", "10", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt_seconds"] == pytest.approx(3.0, abs=0.05)


@pytest.mark.usefixtures("stub_pictures")
def test_predict_midi_prompt_lasts_as_long_as_its_score(trained, tmp_path, capsys):
    from continuo.score.performance import perform
    from continuo.score.synth import write_midi

    write_midi(perform(PROMPT), tmp_path / "p.mid")
    assert predict(trained, tmp_path / "p.mid", tmp_path / "o.wav", "--frames", "10", "--json") == 0
    midi_seconds = json.loads(capsys.readouterr().out)["prompt_seconds"]
    assert predict(trained, PROMPT, tmp_path / "x.wav", "--frames", "10", "--json") == 0
    assert midi_seconds == pytest.approx(json.loads(capsys.readouterr().out)["prompt_seconds"], abs=0.2)


BAD = [
    (["--frames", "-1"], "--frames -1 must be 0 or more"),
    (["--temperature", "-1"], "--temperature must be greater than or equal to 0, not -1.0"),
    (["--temperature", "nan"], "--temperature must be a finite number, not nan"),
    (["--frames", "99999999999"], "more than a WAV holds"),
    (["--out", "song.mp3"], "a name that ends in .wav"),
    (["--fine-temperature", "-0.1"], "--fine-temperature must be greater than or equal to 0, not -0.1"),
    (["--coarse-temperature", "inf"], "--coarse-temperature must be a finite number, not inf"),
    (["--top-p", "0"], "--top-p must be greater than 0, not 0.0"),
    (["--top-p", "1.5"], "--top-p must be less than or equal to 1, not 1.5"),
    (["--seed", "-4"], "--seed -4"),
    (["--device", "cuda:9"], "--device"),
    (["--prompt", "missing.musicxml"], "missing.musicxml does not exist"),
    (["--prompt", "README.md"], "not a file of a known kind"),
    (["--prompt", "tests"], "tests is a folder: name a file in it"),
    (["--prompt", "."], "the prompt . is a folder: name a file in it"),
    (["--prompt", "/"], "the prompt / is a folder: name a file in it"),
    (["--prompt", "https://example.org/song.mid"], "not a web address: download it first"),
    (["--out", "README.md/take.wav"], "README.md is a file, not a folder"),
    (["--meta", "nowhere.json"], "nowhere.json does not exist"),
    (["--takes", "10000", "--frames", "1000000"], "fewer --frames or --takes"),
]


@pytest.mark.parametrize(("flags", "words"), BAD)
def test_predict_bad_arguments_are_refused_in_one_line(
    trained, prompt_wav, tmp_path, monkeypatch, capsys, flags, words
):
    monkeypatch.chdir(ROOT)
    defaults = {"--meta": str(trained), "--prompt": str(prompt_wav), "--frames": "5", "--out": str(tmp_path / "o.wav")}
    values = defaults | dict(zip(flags[::2], flags[1::2], strict=True))
    assert main([word for pair in values.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o.wav").exists()
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(RATE_HZ), "silent"),
        (np.zeros(0), "too short"),
        (melody(0)[:100], "too short"),
        (np.full(RATE_HZ, np.nan), "not numbers"),
        (np.full(RATE_HZ, np.inf), "not numbers"),
    ],
)
def test_predict_prompt_without_music_is_refused(trained, tmp_path, capsys, audio, words):
    path = tmp_path / "p.wav"
    soundfile.write(path, audio, RATE_HZ, subtype="FLOAT")
    assert predict(trained, path, tmp_path / "o.wav", "--frames", "5") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["p.musicxml", "p.mxl", "p.mid", "p.wav"])
@pytest.mark.parametrize("content", [b"", b"<score-partwise>", bytes(range(256))])
def test_predict_damaged_prompt_is_refused_in_one_line(trained, tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert predict(trained, tmp_path / name, tmp_path / "o.wav", "--frames", "5") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--frames", "abc"], ["--no-such-flag"], []])
def test_predict_impossible_flags_are_refused_in_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("predict.py: ")
    assert error.count("\n") == 1


def test_predict_never_overwrites_the_prompt(trained, prompt_wav, capsys):
    before = prompt_wav.read_bytes()
    assert predict(trained, prompt_wav, prompt_wav, "--frames", "5", "--force") == 2
    assert "is the prompt itself" in capsys.readouterr().err
    assert prompt_wav.read_bytes() == before


@pytest.mark.usefixtures("stub_pictures")
def test_predict_overwrites_outputs_with_force_only(trained, prompt_wav, tmp_path, capsys):
    out = tmp_path / "o.wav"
    out.write_text("precious")
    assert predict(trained, prompt_wav, out, "--frames", "5") == 2
    assert out.read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert predict(trained, prompt_wav, out, "--frames", "5", "--force") == 0
    assert soundfile.info(out).frames > 0


@pytest.mark.slow
@pytest.mark.parametrize("takes", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_predict_interrupted_or_terminated_leaves_nothing(trained, prompt_wav, tmp_path, takes, signum):
    command = [sys.executable, str(ROOT / "predict.py"), "--meta", str(trained), "--prompt", str(prompt_wav)]
    flags = ["--out", str(tmp_path / "o.wav"), "--frames", "500000", "--takes", str(takes), "--quiet"]
    is_handled = lambda: signal.signal(signum, signal.SIG_DFL)  # also where the tests run under nohup  # noqa: E731
    if signum == signal.SIGINT:
        is_handled = None
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, preexec_fn=is_handled)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob(".o*.wav/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert err == ("predict.py: interrupted\n" if signum == signal.SIGINT else "")
    assert process.returncode == 128 + signum
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.wav"]


def test_takes_of_a_killed_process_leave_nothing(trained, tmp_path, monkeypatch):
    """Like a process that is killed, or stopped a second time while it cleans up."""

    def killed(work, groups, processes):
        for request in itertools.chain.from_iterable(groups):
            for path in (request.out, request.out.with_suffix(".png")):
                tempfile.mkdtemp(dir=tmp_path, prefix=f".{path.name}.", suffix=path.suffix)
        raise ChildProcessError("killed")
        yield

    monkeypatch.setattr(takes, "process_map", killed)
    (tmp_path / ".o-10.wav").mkdir()  # of somebody else
    requests = [takes.TakeRequest(tmp_path / f"o-{number}.wav", steps=5) for number in (1, 2)]
    with pytest.raises(ChildProcessError):
        list(takes.write_takes(Predictor.load(trained), None, requests))
    assert [path.name for path in tmp_path.iterdir()] == [".o-10.wav"]


def test_predict_while_a_training_prepares_is_refused_with_the_reason(tmp_path, prompt_wav, capsys):
    meta = tmp_path / "new.json"
    with locked(meta.with_suffix(".safetensors"), "held"):
        assert predict(meta, prompt_wav, tmp_path / "o.wav", "--frames", "5") == 2
        assert "new.json has not saved yet: try again after its first checkpoint" in capsys.readouterr().err
    assert predict(meta, prompt_wav, tmp_path / "o.wav", "--frames", "5") == 2
    assert "new.json does not exist; check --meta, or create it" in capsys.readouterr().err


def test_predict_damaged_or_foreign_state_is_refused(trained, prompt_wav, tmp_path, capsys):
    for file in trained.parent.glob("model.*"):
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    meta, state = tmp_path / "model.json", tmp_path / "model.safetensors"
    whole = state.read_bytes()
    tensors, facts = checkpoint.load(state)

    def refused() -> str:
        assert predict(meta, prompt_wav, tmp_path / "o.wav", "--frames", "5") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    state.write_bytes(whole[:-1000])
    assert "damaged" in refused()
    state.unlink()
    assert "train first" in refused()
    checkpoint.save(state, {n: t for n, t in tensors.items() if not n.startswith("featurizer")}, facts)
    assert "lacks what its model needs" in refused()
    state.write_bytes(whole)
    content = json.loads(meta.read_text())
    content["architecture"]["layers"] = 3
    meta.write_text(json.dumps(content))
    assert "architecture.layers = 2, now it is 3" in refused()


def test_predict_on_a_full_disk_leaves_nothing(trained, prompt_wav, tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    Predictor.load(trained).prompt(prompt_wav)  # fills the cache, which is not written again
    monkeypatch.setattr("continuo.system.files._sync", full)
    assert predict(trained, prompt_wav, tmp_path / "o.wav", "--frames", "5") == 2
    assert "No space left on device: free some space" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prompt.wav"]
