"""Test training as a user runs it: budgets, resuming, killing, refusals."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE_HZ, ROOT, SMALL_CODEC, SMALL_OF, melody, set_flags, train_small
from tunes import tune

import predict as predict_script
import preparation
from continuo.audio.piece import Piece
from continuo.model import checkpoint, metadata, presets
from continuo.system import device
from continuo.system.progress import Display
from featurizer import StftFeaturizer, build_featurizer
from train import main
from trainer import build_trainer


def state_of(meta) -> tuple[dict, dict]:
    return checkpoint.load(meta.parent / "model.safetensors")


def without_time(facts: dict) -> dict:
    """Return the facts of a state without times."""
    progress = facts["progress"]
    history = [[step, train, held_out] for step, _, train, held_out in progress["history"]]
    return facts | {"progress": progress | {"seconds": 0, "history": history}, "metadata": None}


def assert_same_state(a, b) -> None:
    (tensors, facts), (other_tensors, other_facts) = a, b
    assert tensors.keys() == other_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []
    assert without_time(facts) == without_time(other_facts)


@pytest.mark.parametrize("preset", SMALL_OF)
def test_A05_training_makes_metadata_state_and_curves(tmp_path, music_folder, preset, capsys):
    meta = train_small(tmp_path, music_folder, preset, steps=8, extra=("--json",), curves=True)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["step"] == 8
    assert result["device"] == "cpu"
    assert result["frames_per_second"] > 0
    assert result["train_nats"] > 0
    assert result["validation_nats"] > 0
    saved = json.loads(meta.read_text())
    assert saved["corpus"]["path"] == str(music_folder)
    assert saved["training"]["steps"] == 8
    _, facts = state_of(meta)
    assert facts["progress"]["step"] == 8
    assert [row[0] for row in facts["progress"]["history"]] == [4, 8]
    assert (tmp_path / "model.curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "model.runs").glob("events.out.tfevents.*"))


def test_A06_state_holds_everything_to_continue(trained):
    tensors, facts = state_of(trained)
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"weights", "average", "best", "featurizer", "optimizer", "sampler", "lanes", "random"}
    known = {"version", "metadata", "progress", "precision", "pieces", "validation", "amounts", "begun_with"}
    assert facts.keys() == known


@pytest.mark.parametrize("preset", SMALL_OF)
def test_A06_stopped_and_resumed_training_equals_an_uninterrupted_one(tmp_path, music_folder, preset):
    """N5: Train 20 steps at once, and 7 and 13; the schedule is the same."""
    extra = ("--set", "architecture.dropout=0.2")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train_small(tmp_path / "a", music_folder, preset, steps=20, extra=extra)

    from trainer import build_trainer

    meta = train_small_metadata(tmp_path / "b", music_folder, preset, 20, extra)
    interrupted = build_trainer(*meta, torch.device("cpu"))
    interrupted.run(lambda t: t.stop() if t.progress.step == 7 else None)
    assert state_of(tmp_path / "b" / "model.json")[1]["progress"]["step"] == 7
    cut = train_small(tmp_path / "b", music_folder, preset, steps=20, extra=extra)
    assert_same_state(state_of(whole), state_of(cut))


def train_small_metadata(folder, music, preset, steps, extra):
    """Write the metadata file that `train_small` would, and return the metadata and the path of the state."""
    values = SMALL_OF[preset] | {"corpus.path": str(music), "training.steps": steps}
    made = presets.from_preset(preset, values | presets.parse_assignments(extra[1::2]), state="model.safetensors")
    metadata.save(made, folder / "model.json")
    return made, folder / "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_A06_signals_save_and_leave(tmp_path, music_folder, signum):
    meta = train_small_metadata(tmp_path, music_folder, "codec-lstm", 10**6, ())[1].with_name("model.json")
    command = [sys.executable, str(ROOT / "train.py"), "--meta", str(meta), "--device", "cpu"]
    is_handled = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup  # noqa: E731
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ, preexec_fn=is_handled)
    runs = tmp_path / "model.runs"
    deadline = time.monotonic() + 120
    while not runs.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped and saved at step" in err
    assert state_of(meta)[1]["progress"]["step"] > 0


def test_train_finished_continues_only_with_a_larger_budget(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, steps=5)
    before = state_of(meta)
    train_small(tmp_path, music_folder, steps=5)
    assert_same_state(before, state_of(meta))
    train_small(tmp_path, music_folder, steps=9)
    assert state_of(meta)[1]["progress"]["step"] == 9
    train_small(tmp_path, music_folder, steps=3, extra=("--fresh",))
    assert state_of(meta)[1]["progress"]["step"] == 3


def test_train_minutes_are_a_budget(tmp_path, music_folder, capsys):
    meta = tmp_path / "model.json"
    flags = ["--meta", str(meta), "--corpus", str(music_folder), "--minutes", "0.03", "--device", "cpu", "--json"]
    assert main([*flags, *set_flags(SMALL_CODEC)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1.7 < result["seconds"] < 30
    assert result["step"] > 0


def test_train_same_seed_gives_the_same_state(tmp_path, music_folder):
    states = []
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        (tmp_path / name).mkdir()
        states.append(state_of(train_small(tmp_path / name, music_folder, steps=4, extra=("--seed", str(seed)))))
    assert_same_state(states[0], states[1])
    assert not torch.equal(states[0][0]["weights.in_proj.weight"], states[2][0]["weights.in_proj.weight"])


def test_train_nan_loss_stops_and_keeps_the_last_good_state(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, steps=4)
    before = (tmp_path / "model.safetensors").read_bytes()
    flags = ["--meta", str(meta), "--steps", "500", "--device", "cpu", "--quiet", "--corpus", str(music_folder)]
    assert main([*flags, "--set", "training.learning_rate=1e30", "--set", "training.clip_norm=1e30"]) == 2
    error = capsys.readouterr().err
    assert "lower training.learning_rate" in error
    assert error.count("\n") == 1
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_train_changed_corpus_is_reported_and_training_continues(tmp_path, music_folder, capsys):
    music = tmp_path / "music"
    shutil.copytree(music_folder, music)
    train_small(tmp_path, music, steps=4)
    (music / "tune3.wav").unlink()
    (music / "tune0.wav").unlink()
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(music), "--steps", "6", "--device", "cpu"]
    assert main(flags) == 0
    assert "every batch row starts with a new piece" in capsys.readouterr().err
    assert state_of(tmp_path / "model.json")[1]["progress"]["step"] == 6


def test_train_other_held_out_pieces_reset_the_best_weights(tmp_path, music_folder, capsys):
    """Losses on other held-out music do not compare: the earlier weights would count as better forever."""
    music = tmp_path / "music"
    shutil.copytree(music_folder, music)
    meta = train_small(tmp_path, music, steps=4)
    facts = state_of(meta)[1]
    assert facts["progress"]["best_step"] == 4
    held_out = facts["validation"]
    for name in held_out:
        shutil.move(music / name, music / f"{name.split('.')[0]} again.wav")
    flags = ["--meta", str(meta), "--corpus", str(music), "--device", "cpu"]
    trainer = build_trainer(metadata.load(meta, {"corpus.path": str(music)}), meta.with_suffix(".safetensors"),
                      torch.device("cpu"))  # fmt: skip
    assert (trainer.best, trainer.progress.history, trainer.progress.best_nats) == ({}, [], None)
    assert main([*flags, "--steps", "6"]) == 0
    assert "the best weights are chosen again" in capsys.readouterr().err
    facts = state_of(meta)[1]
    assert facts["progress"]["best_step"] == 6
    assert [row[0] for row in facts["progress"]["history"]] == [6]
    assert main([*flags, "--steps", "8"]) == 0
    assert "chosen again" not in capsys.readouterr().err
    rows = (tmp_path / "model.runs" / "training.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "6", "8"]  # the last validation is among them


def test_train_missing_metadata_is_restored_from_the_state(tmp_path, music_folder, capsys):
    """Metadata from the preset would train the model on the default corpus."""
    meta = train_small(tmp_path, music_folder, steps=2)
    before = metadata.load(meta)
    meta.unlink()
    assert main(["--meta", str(meta), "--preset", "notes-lstm", "--device", "cpu"]) == 2
    assert "model.safetensors exists and is not of the preset notes-lstm" in capsys.readouterr().err
    assert not meta.exists()
    assert main(["--meta", str(meta), "--steps", "3", "--device", "cpu"]) == 0
    assert (
        f"{meta} was missing: it was written again from {meta.with_suffix('.safetensors')}" in capsys.readouterr().err
    )
    after = metadata.load(meta)
    assert (after.corpus, after.representation, after.architecture) == (
        before.corpus, before.representation, before.architecture)  # fmt: skip
    assert state_of(meta)[1]["progress"]["step"] == 3


def test_train_corpus_other_than_in_the_metadata_is_reported(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, steps=2)
    other = tmp_path / "other"
    shutil.copytree(music_folder, other)
    assert main(["--meta", str(meta), "--steps", "3", "--corpus", str(other), "--device", "cpu"]) == 0
    error = capsys.readouterr().err
    assert f"{meta} still names the corpus {music_folder}: write the new one there to keep it" in error
    assert main(["--meta", str(meta), "--steps", "4", "--device", "cpu"]) == 0
    error = capsys.readouterr().err
    assert "still names" not in error


def test_train_other_music_than_the_state_learned_is_refused(tmp_path, music_folder, capsys):
    """It once did nothing, and the card then named music that the model had not learned."""
    meta = train_small(tmp_path, music_folder, steps=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = tmp_path / "other"
    shutil.copytree(music_folder, other)
    soundfile.write(other / "tune1.wav", melody(60, 4.0), RATE_HZ)
    for steps in ("2", "3"):
        assert main(["--meta", str(meta), "--steps", steps, "--corpus", str(other), "--device", "cpu", "--quiet"]) == 2
        error = capsys.readouterr().err
        assert f"{other} holds other music: name another --meta, with --from" in error
        assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_train_changed_recording_alone_is_encoded_again(tmp_path, music_folder, monkeypatch):
    """Resume after one of four tunes was changed and one touched: one is encoded, with the same codec."""
    music = tmp_path / "music"
    shutil.copytree(music_folder, music)
    train_small(tmp_path, music, steps=2)
    soundfile.write(music / "tune1.wav", melody(60), RATE_HZ)
    os.utime(music / "tune2.wav", (1, 1))
    encoded, plain = [], StftFeaturizer.encode

    def counting(self, piece, *stretch):
        encoded.append(piece.id)
        return plain(self, piece, *stretch)

    monkeypatch.setattr(StftFeaturizer, "encode", counting)
    train_small(tmp_path, music, steps=4)
    assert encoded == ["tune1.wav"]
    assert state_of(tmp_path / "model.json")[1]["progress"]["step"] == 4


def test_train_empty_corpus_leaves_no_file_behind(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(tmp_path / "empty"), "--quiet", "--device", "cpu"]
    assert main(flags) == 2
    assert "no music found" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_train_same_command_with_preset_continues(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, "spectral-lstm", steps=2)
    again = ["--meta", str(meta), "--corpus", str(music_folder), "--steps", "3", "--device", "cpu", "--quiet"]
    assert main([*again, "--preset", "spectral-lstm"]) == 0
    assert state_of(meta)[1]["progress"]["step"] == 3
    assert main([*again, "--preset", "codec-lstm"]) == 2
    assert "not of the preset" in capsys.readouterr().err


def test_train_second_start_uses_the_cache(tmp_path, music_folder, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = state_of(train_small(tmp_path / "a", music_folder, steps=3))

    def refuse(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr("featurizer.CodecFeaturizer.fit", refuse)
    monkeypatch.setattr("featurizer.StftFeaturizer.encode", refuse)
    assert_same_state(first, state_of(train_small(tmp_path / "b", music_folder, steps=3)))


def test_A11_train_from_donor_starts_from_its_weights(tmp_path, music_folder, trained, capsys):
    """Take weights from the donor, go on adapting the codec with default settings; the same command continues."""
    donor, _ = state_of(trained)
    meta = tmp_path / "model.json"
    flags = ["--meta", str(meta), "--from", str(trained.with_suffix(".safetensors")), "--corpus", str(music_folder)]
    small = ["--set", "training.batch_size=4", "--set", "training.window=16", "--set", "training.learning_rate=1e-12"]
    fit = ["--set", "representation.adaptation_steps=2", "--set", "training.weight_decay=0"]
    fit += ["--set", "training.precision=float32", "--set", "corpus.transpose=0"]
    assert main([*flags, "--steps", "1", *small, *fit, "--device", "cpu", "--quiet"]) == 0
    tensors, facts = state_of(meta)
    assert facts["metadata"]["architecture"] == state_of(trained)[1]["metadata"]["architecture"]
    fitted = [f["metadata"]["representation"] for f in (facts, state_of(trained)[1])]
    assert [f["adaptation_steps"] for f in fitted] == [2, 0]
    for name in ("in_proj.weight", "head.out", "backbone.lstm.weight_ih_l0", "ending.weight"):
        torch.testing.assert_close(tensors[f"weights.{name}"], donor[f"average.{name}"], atol=1e-6, rtol=0)
    assert torch.equal(tensors["featurizer.shipped"], donor["featurizer.shipped"])
    assert torch.equal(tensors["weights.head.embedding.vectors"], donor["weights.head.embedding.vectors"])
    assert main([*flags, "--steps", "2", "--device", "cpu"]) == 0
    assert "exists: continuing from it" in capsys.readouterr().err
    assert state_of(meta)[1]["progress"]["step"] == 2
    card = (tmp_path / "model.card.md").read_text()
    assert "**Started from**: model.safetensors after 12 steps" in card


def test_train_unsuitable_donor_is_refused(tmp_path, music_folder, trained, capsys):
    flags = ["--meta", str(tmp_path / "mine.json"), "--corpus", str(music_folder), "--device", "cpu", "--quiet"]
    state = ["--from", str(trained.with_suffix(".safetensors"))]
    for extra, words in [
        (["--from", str(tmp_path / "none.safetensors")], "there is no such state"),
        (["--from", str(trained)], f"name its state, {trained.with_suffix('.safetensors')}"),
        ([*state, "--preset", "codec-lstm"], "leave out --preset"),
        ([*state, "--set", "architecture.hidden=7"], "architecture.hidden"),
    ]:
        assert main([*flags, *extra]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_train_copied_metadata_does_not_train_the_original_model(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, steps=2)
    before = meta.with_suffix(".safetensors").read_bytes()
    mine = tmp_path / "mine.json"
    mine.write_text(meta.read_text())
    flags = ["--meta", str(mine), "--device", "cpu", "--quiet", "--steps", "3"]
    new = ["--meta", str(tmp_path / "new.json"), "--set", "state=model.safetensors", "--device", "cpu", "--quiet"]
    for words in (flags, [*flags, "--fresh"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert 'write "state": "mine.safetensors" into it' in error
        assert error.count("\n") == 1
    assert main(new) == 2
    assert 'write "state": "new.safetensors" into it' in capsys.readouterr().err
    assert meta.with_suffix(".safetensors").read_bytes() == before
    mine.write_text(meta.read_text().replace("model.safetensors", "mine.safetensors"))
    assert main(flags) == 0
    assert checkpoint.read_facts(tmp_path / "mine.safetensors")["progress"].step == 3
    assert meta.with_suffix(".safetensors").read_bytes() == before


def test_train_ctrl_c_while_preparing_reports_what_is_kept(tmp_path, music_folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("preparation.encode", interrupted)
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(music_folder), "--device", "cpu", "--steps", "2"]
    assert main([*flags, *set_flags(SMALL_CODEC)]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        "stopped while preparing: what was read is kept in the cache, and no state was touched",
        "train.py: interrupted",
    ]
    assert list(tmp_path.iterdir()) == []


def test_A12_trainer_overfitting_is_reported_once(tmp_path, music_folder, capsys):
    """Warn when the held-out loss is worse than the best three times in a row, and keep the best weights."""
    meta = train_small(tmp_path, music_folder, steps=4)
    trainer = build_trainer(metadata.load(meta), tmp_path / "model.safetensors", torch.device("cpu"), display=Display())
    capsys.readouterr()
    trainer.progress.history = []
    trainer.progress.best_nats = None
    rising = iter([5.0, 4.0, 4.5, 4.6, 4.7, 4.8])
    trainer._nll = lambda loss, batch: (torch.tensor(next(rising)), torch.tensor(1))
    trainer.held_out = trainer.held_out[:1]
    trainer.held_out[0] = trainer.held_out[0][:1]
    said = []
    for step in range(6):
        trainer.progress.step = step
        trainer._validate()
        said.append("the model now memorizes" in capsys.readouterr().err)
    assert said == [False, False, False, False, True, False]
    assert trainer.progress.best_step == 1


def test_A04_prepare_transposes_small_corpora(tmp_path, music_folder, capsys):
    """Transpose three training tunes to five keys each, or as the metadata says; keep held-out tunes as they are."""
    meta = train_small(tmp_path, music_folder, steps=1)
    counts = {}
    for transpose in (None, 0, 1):
        section = metadata.load(meta, {"corpus.transpose": transpose})
        trainer = build_trainer(section, tmp_path / f"{transpose}.safetensors", torch.device("cpu"))
        counts[transpose] = len(trainer.prepared.train_pieces), len(trainer.prepared.held_out_pieces)
        assert len({piece.id for piece in trainer.prepared.train_pieces}) == counts[transpose][0]
    assert counts == {None: (15, 1), 0: (3, 1), 1: (9, 1)}


@pytest.mark.parametrize(
    ("seconds", "keys"),
    [
        ([1200], [[-2, -1, 0, 1, 2]]),
        ([600, 2400, 1200], [[0, 1], [-1, 0], [0]]),  # 70 minutes, and copies until there are 100
        ([6000, 10], [[0], [0]]),
    ],
)
def test_in_more_keys_adds_copies_until_there_is_enough_music(seconds, keys):
    pieces = [Piece(str(n), "", 10, np.zeros(10 * s, np.float32), -20.0) for n, s in enumerate(seconds)]
    names = [f"{n}{f'{key:+d}' * bool(key)}" for n, own in enumerate(keys) for key in own]
    assert [piece.id for piece in preparation.in_more_keys(pieces, None, is_sound=True)] == names


def test_adaptation_that_was_interrupted_begins_again_and_ends_alike(tmp_path, monkeypatch):
    (tmp_path / "music").mkdir()
    for pitch in (60, 64, 67):
        soundfile.write(tmp_path / "music" / f"{pitch}.wav", np.tile(melody(pitch), 8), RATE_HZ)
    values = SMALL_CODEC | {"corpus.path": str(tmp_path / "music"), "training.steps": 3, "corpus.transpose": 0}
    made = presets.from_preset("codec-lstm", values | {"representation.adaptation_steps": 6}, state="m.safetensors")

    def trained(name: str, stops: int = 0) -> dict[str, torch.Tensor]:
        monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path / f"cache-{name}"))
        trainer = build_trainer(made, tmp_path / f"{name}.safetensors", torch.device("cpu"))
        monkeypatch.setattr(trainer, "_adapt", lambda seconds: False) if stops else None
        trainer.run(lambda trainer: trainer.stop() if trainer.progress.step == stops else None)
        return checkpoint.load(tmp_path / f"{name}.safetensors")[0]

    early = trained("stopped", stops=2)
    assert not early["featurizer.settled"]
    assert not any(name.startswith("featurizer.network") for name in early)
    whole, resumed = trained("whole"), trained("stopped")
    assert resumed["featurizer.settled"]
    assert any(name.startswith("featurizer.network") for name in resumed)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


@pytest.mark.parametrize(("enough_s", "fitted"), [(0, 3), (10_000, 15)])
def test_prepare_fits_untransposed_music_if_there_is_enough(tmp_path, music_folder, monkeypatch, enough_s, fitted):
    monkeypatch.setattr(preparation, "FIT_UNSHIFTED_ABOVE_S", enough_s)
    to_fit, fitted_state = [], preparation.fitted_state

    def counting(featurizer, pieces, *rest):
        to_fit.append(len(pieces))
        return fitted_state(featurizer, pieces, *rest)

    meta = train_small(tmp_path, music_folder, steps=1)
    monkeypatch.setattr(preparation, "fitted_state", counting)
    section = metadata.load(meta, {"corpus.transpose": 2})
    trainer = build_trainer(section, tmp_path / "other.safetensors", torch.device("cpu"))
    assert (to_fit, len(trainer.prepared.train_pieces)) == ([fitted], 15)


@pytest.mark.parametrize(
    ("preset", "piece", "words"),
    [
        ("spectral-lstm", melody(70), "measuring the spectra took"),
        ("notes-lstm", tune(70), "collecting the vocabulary took"),
    ],
)
def test_fitted_state_says_what_fitting_does(tmp_path, monkeypatch, preset, piece, words):
    monkeypatch.setenv("CONTINUO_CACHE", str(tmp_path))
    featurizer, said = build_featurizer(presets.from_preset(preset, {}, state="x.safetensors")), io.StringIO()
    pieces = [piece if preset == "notes-lstm" else Piece.from_samples(piece, RATE_HZ)]
    preparation.fitted_state(featurizer, pieces, None, 0, Display(stream=said))
    assert said.getvalue().startswith(words)


def test_train_state_of_another_model_is_refused(tmp_path, music_folder, capsys):
    meta = train_small(tmp_path, music_folder, steps=2)
    flags = ["--meta", str(meta), "--corpus", str(music_folder), "--steps", "4", "--device", "cpu", "--quiet"]
    assert main([*flags, "--set", "architecture.hidden=25"]) == 2
    assert "architecture.hidden = 24, now it is 25" in capsys.readouterr().err
    assert state_of(meta)[1]["progress"]["step"] == 2


def test_trainer_average_keeps_no_autograd_history(tmp_path, music_folder):
    """A history would take 20 KB a step, 1.7 GB after a day of training."""
    wanted = SMALL_CODEC | {"corpus.path": str(music_folder), "training.steps": 3}
    made = presets.from_preset("codec-lstm", wanted, state="model.safetensors")
    trainer = build_trainer(made, tmp_path / "model.safetensors", torch.device("cpu"))
    trainer.run()
    assert [name for name, weight in trainer.average.named_parameters() if weight.requires_grad or weight.grad_fn] == []


def test_state_holds_average_and_best_weights(trained):
    tensors, facts = state_of(trained)
    history = facts["progress"]["history"]
    best = min(history, key=lambda row: row[3])
    assert facts["progress"]["best_step"] == best[0]
    assert facts["progress"]["best_nats"] == best[3]
    assert not torch.equal(tensors["average.in_proj.weight"], tensors["weights.in_proj.weight"])
    if best[0] == facts["progress"]["step"]:
        assert torch.equal(tensors["average.in_proj.weight"], tensors["best.in_proj.weight"])


@pytest.mark.parametrize(
    ("slower", "of_a_few", "chosen"),
    [
        (0.4, 0.4, torch.bfloat16),
        (0.15, 2.5, torch.bfloat16),  # only many rows are fast, as on processors with matrix units
        (1.0, 1.0, torch.float32),
        (1000.0, 1000.0, torch.float32),
    ],
)
def test_precision_is_chosen_by_products_at_little_cost(monkeypatch, slower, of_a_few, chosen):
    """Do not measure whole products in bfloat16 where it is emulated: that takes a minute."""
    asked, threads = [], torch.get_num_threads()

    def seconds(dtype, rows):
        assert torch.get_num_threads() == 1  # several threads wait for each other on a busy machine
        many = rows == device.PRODUCT_ROWS
        asked.append(rows * (1.0 if dtype == torch.float32 else slower if many else of_a_few))
        return asked[-1]

    monkeypatch.setattr(device, "_product_seconds", seconds)
    assert device.choose_precision("auto", torch.device("cpu")) == chosen
    assert sum(asked) < 20 * device.PRODUCT_ROWS
    assert torch.get_num_threads() == threads


def test_A05_devices_are_taken_in_order(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.choose("auto")[0].type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "compare_with_cpu", lambda there: "")
    assert device.choose("auto")[0].type == "mps"
    monkeypatch.setattr(device, "compare_with_cpu", lambda there: "an LSTM takes 3.0 times as long")
    assert device.choose("auto") == (torch.device("cpu"), "MPS is not used: an LSTM takes 3.0 times as long")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose("auto")[0].type == "cpu"
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(ValueError, match=f"--device {name}"):
            device.choose(name)
    assert device.choose("cpu") == (torch.device("cpu"), "chosen by --device")


def test_compare_with_cpu_accepts_the_cpu(monkeypatch):
    verdict = device.compare_with_cpu(torch.device("cpu"))
    assert verdict == "" or "times as long" in verdict  # the CPU computes the same, but its times may vary


def test_A05_time_remaining_is_on_screen(tmp_path, music_folder, monkeypatch, capsys):
    monkeypatch.setattr("continuo.system.progress.PLAIN_EVERY_S", 0.0)
    train_small(tmp_path, music_folder, steps=2)
    capsys.readouterr()
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(music_folder), "--steps", "40", "--device", "cpu"]
    assert main(flags) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training")]
    assert lines
    for words in ("step", "loss", "held-out", "frames/s", "elapsed", "remaining"):
        assert words in lines[0]


def test_train_used_budget_is_reported(tmp_path, music_folder, capsys):
    train_small(tmp_path, music_folder, steps=3)
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(music_folder), "--device", "cpu"]
    for steps, said in ((2, True), (4, False)):
        capsys.readouterr()
        assert main([*flags, "--steps", str(steps)]) == 0
        assert ("nothing was left to do: already trained for 3 steps" in capsys.readouterr().err) == said


KEPT = """
import os, resource, torch
from continuo.system.device import keep_freed_memory
if child := os.fork():
    os.wait()
else:
    keep_freed_memory()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
torch.ones(1)
before = resident()
torch.ones(5 << 20)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries keep memory in other ways")
def test_keep_freed_memory_keeps_what_a_step_frees():
    run = subprocess.run([sys.executable, "-c", KEPT], cwd=ROOT, capture_output=True, text=True, check=True)
    kept_all, kept = map(int, run.stdout.split())  # a fork that keeps freed memory prints first, then its parent
    assert kept < 10e6 < 19e6 < kept_all


# --- models of earlier versions ---------------------------------------------------------------------------------------


def make_retired(meta: Path, kind: str) -> None:
    """Turn a metadata file and its state into those of an earlier version."""
    old = {"codebook": {"kind": "codebook", "n_fft": 256, "hop": 64}, "universal": {"kind": "universal"}}[kind]
    tensors, facts = checkpoint.load(meta.with_suffix(".safetensors"))
    facts["metadata"]["representation"] = old
    checkpoint.save(meta.with_suffix(".safetensors"), tensors, facts)
    content = json.loads(meta.read_text()) | {"representation": old}
    content["corpus"]["sample_rate_hz"] = 8000
    meta.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["codebook", "universal"])
def test_model_of_an_earlier_version_is_refused_and_trained_again(tmp_path, music_folder, capsys, kind):
    meta = train_small(tmp_path, music_folder, steps=2)
    new = meta.read_text()
    make_retired(meta, kind)
    state = meta.with_suffix(".safetensors")

    def refused(status: int, path: Path, advice: str = f"train it again with python train.py --meta {meta} --fresh"):
        assert status == 2
        reason = f"{path} was made by an earlier version, whose codes this version does not read: {advice}\n"
        assert capsys.readouterr().err.endswith(reason)

    train_words = ["--meta", str(meta), "--device", "cpu", "--quiet"]
    predict_words = ["--meta", str(meta), "--prompt", str(music_folder / "tune0.wav"), "--frames", "2"]
    refused(main(train_words), meta)
    refused(predict_script.main(predict_words), meta)
    from_words = ["--meta", str(tmp_path / "mine.json"), "--from", str(state), *train_words[2:]]
    refused(main(from_words), state, "start without --from, or from another state")
    old = meta.read_text()
    meta.write_text(new)  # a state of an earlier version, metadata of this one
    refused(main(train_words), state)
    refused(predict_script.main(predict_words), state)
    meta.unlink()
    advice = f"train it again with python train.py --meta {meta} --fresh --corpus {music_folder}"
    refused(main(train_words), state, advice)
    meta.write_text(old)
    few = ["--set", "representation.adaptation_steps=0", "--steps", "2"]
    assert main([*train_words, "--fresh", *few]) == 0
    content = json.loads(meta.read_text())
    assert content["representation"] == {"kind": "codec", "adaptation_steps": 0}
    assert content["corpus"]["path"] == str(music_folder)
    assert content["sampling"] == {"coarse_temperature": 1.0, "fine_temperature": 1.0}
    assert predict_script.main([*predict_words, "--out", str(tmp_path / "take.wav")]) == 0


def test_retired_metadata_without_other_sections_is_trained_again_in_one_step(tmp_path, music_folder, capsys):
    meta = tmp_path / "mine.json"
    meta.write_text('{"representation": {"kind": "codebook"}}')
    words = ["--meta", str(meta), "--corpus", str(music_folder), "--steps", "1", "--device", "cpu", "--quiet"]
    assert main(words) == 2
    assert f"train it again with python train.py --meta {meta} --fresh" in capsys.readouterr().err
    assert main([*words, "--fresh", *set_flags(SMALL_CODEC)]) == 0
    assert metadata.load(meta).state == "mine.safetensors"
    assert metadata.load(meta).architecture.kind == "lstm"


@pytest.mark.parametrize(
    ("section", "change", "problem"),
    [
        ("architecture", {"texture": 3}, "--from: unknown key architecture.texture"),
        ("architecture", {"kind": "gru"}, "--from: architecture: Input tag 'gru' found"),
        ("representation", {"kind": "codebook"}, "model.safetensors was made by an earlier version"),
    ],
)
def test_train_from_a_state_of_an_earlier_version_advises_to_start_without_it(
    tmp_path, music_folder, trained, capsys, section, change, problem
):
    tensors, facts = state_of(trained)
    facts["metadata"][section] |= change
    checkpoint.save(tmp_path / "model.safetensors", tensors, facts)
    words = ["--meta", str(tmp_path / "mine.json"), "--corpus", str(music_folder), "--device", "cpu", "--quiet"]
    assert main([*words, "--from", str(tmp_path / "model.safetensors")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert line.endswith(": start without --from, or from another state")


def test_state_of_another_codec_is_refused(tmp_path, music_folder, capsys):
    """It is refused by training, by prediction and as the start of another training; `--fresh` trains again."""
    meta = train_small(tmp_path, music_folder, steps=2)
    state = meta.with_suffix(".safetensors")
    tensors, facts = checkpoint.load(state)
    checkpoint.save(state, tensors | {"featurizer.shipped": torch.zeros(16, dtype=torch.uint8)}, facts)
    words = ["--device", "cpu", "--quiet", "--corpus", str(music_folder), "--steps", "3"]
    prompt = ["--prompt", str(music_folder / "tune0.wav"), "--frames", "2"]
    for status in (
        main(["--meta", str(meta), *words]),
        predict_script.main(["--meta", str(meta), *prompt]),
        main(["--meta", str(tmp_path / "mine.json"), "--from", str(state), *words]),
    ):
        assert status == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all("its codes are not those of codec.safetensors, which Continuo ships now" in line for line in errors)
    advice = ["train a new one with --fresh"] * 2 + ["start without --from, or from another state"]
    assert [line.rpartition("): ")[2] for line in errors] == advice
    assert all(f"{state}" in line for line in errors)
    assert main(["--meta", str(meta), *words, "--fresh"]) == 0


def test_ctrl_c_while_preparing_reports_what_is_kept(tmp_path, music_folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "encode", interrupted)
    flags = ["--meta", str(tmp_path / "model.json"), "--corpus", str(music_folder), "--device", "cpu", "--steps", "2"]
    assert main([*flags, *set_flags(SMALL_CODEC)]) == 130
    assert "stopped while preparing: what was read is kept in the cache" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
