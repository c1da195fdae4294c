"""Models of notes from end to end: every representation with every architecture, and the files they write."""

import json

import numpy as np
import pytest
import torch
from conftest import RATE_HZ, melody, set_flags
from tunes import TINY, tune

from continuo.model.presets import from_preset, preset_names
from continuo.symbolic.song import QUARTER, Song, SongNote
from continuo.symbolic.transcription import read_song
from continuo.symbolic.writing import write_musicxml, write_song_midi
from predictor import Predictor, continued

SYMBOLIC = ("notes-lstm", "roll-conv", "remi-transformer", "notes-mlp")


@pytest.fixture(scope="module")
def tunes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tunes")
    for seed in range(4):
        write_song_midi(tune(seed), folder / f"tune{seed}.mid")
    return folder


def train(folder, corpus, preset, *extra, steps=6, name="model", **overrides):
    from train import main

    meta = folder / f"{name}.json"
    flags = ["--meta", str(meta), "--corpus", str(corpus), "--steps", str(steps), "--device", "cpu", "--quiet", *extra]
    heads = {"architecture.heads": 2} if preset == "remi-transformer" else {}
    make = [] if meta.exists() else ["--preset", preset, *set_flags(TINY | heads | overrides)]
    assert main([*flags, *make]) == 0
    return meta


def predict(capsys, *flags):
    from predict import main

    status = main([*map(str, flags), "--quiet", "--json"])
    printed = capsys.readouterr()
    return json.loads(printed.out.splitlines()[-1]) if status == 0 else (status, printed.err)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tunes):
    folder = tmp_path_factory.mktemp("models")
    return {preset: train(folder, tunes, preset, name=preset) for preset in SYMBOLIC}


REPRESENTATIONS = {
    "chords": {"kind": "chords"},
    "roll": {"kind": "roll"},
    "remi": {"kind": "remi"},
    "codec": {"kind": "codec", "adaptation_steps": 0},
    "spectrum": {"kind": "spectrum", "n_fft": 352, "hop": 176},
}  # fmt: skip
ARCHITECTURES = {
    "lstm": {"kind": "lstm", "layers": 1},
    "conv": {"kind": "conv", "layers": 3},
    "mlp": {"kind": "mlp", "layers": 1, "window": 4},
    "transformer": {"kind": "transformer", "layers": 2, "heads": 2, "context": 8},
}


@pytest.mark.usefixtures("stub_pictures")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_every_representation_trains_with_every_architecture(representation, architecture, tunes, tmp_path, capsys):
    import soundfile

    corpus = tunes
    if representation in ("codec", "spectrum"):
        corpus = tmp_path / "sounds"
        corpus.mkdir()
        for seed in range(2):
            soundfile.write(corpus / f"{seed}.wav", melody(seed, 1.5), RATE_HZ)
    content = {
        "corpus": {"path": str(corpus), "sample_rate_hz": RATE_HZ, "transpose": 0},
        "representation": REPRESENTATIONS[representation],
        "architecture": ARCHITECTURES[architecture] | {"hidden": 16, "head_width": 16, "code_dropout": 0.0},
        "training": {"steps": 3, "minutes": None, "batch_size": 2, "window": 8, "precision": "float32"},
        "state": "model.safetensors",
    }
    meta = tmp_path / "model.json"
    meta.write_text(json.dumps(content))
    from train import main

    assert main(["--meta", str(meta), "--device", "cpu", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 3
    prompt = next(iter(sorted(corpus.iterdir())))
    made = predict(capsys, "--meta", meta, "--prompt", prompt, "--frames", 12, "--out", tmp_path / "a.wav")
    assert made["frames"] == 12
    assert made["seconds"] > 0.9 * made["prompt_seconds"] > 0


@pytest.mark.parametrize("preset", SYMBOLIC)
def test_B06_predict_writes_four_files_that_begin_with_the_prompt(preset, models, tunes, tmp_path, capsys):
    prompt = read_song(tunes / "tune0.mid")
    out = tmp_path / "take.wav"
    made = predict(
        capsys, "--meta", models[preset], "--prompt", tunes / "tune0.mid", "--frames", 60, "--out", out, "--seed", 3
    )
    song = read_song(out.with_suffix(".mid"))
    kept = {(t.onset, t.pitch) for t in song.notes}
    assert {(t.onset, t.pitch) for t in prompt.notes} <= kept
    assert any(t.onset >= prompt.ticks for t in song.notes)
    assert song.qpm_at(0) == pytest.approx(96, abs=0.01)
    assert song.meter_at(0) == (3, 4)
    written = read_song(out.with_suffix(".musicxml"))
    assert {(t.onset, t.pitch) for t in written.notes} >= {(t.onset, t.pitch) for t in prompt.notes}
    assert made["notes"] == len(song.notes)
    assert out.with_suffix(".png").stat().st_size > 5000
    assert made["seconds"] >= made["prompt_seconds"]


@pytest.mark.usefixtures("stub_pictures")
@pytest.mark.parametrize("preset", SYMBOLIC)
def test_B05_predict_songs_from_nothing_differ_and_overwrite_none(preset, models, tmp_path, capsys):
    out = tmp_path / "song.wav"
    made = predict(capsys, "--meta", models[preset], "--prompt", "none", "--frames", 32, "--songs", 3, "--out", out)
    assert [song["out"] for song in made["songs"]] == [str(tmp_path / f"song-{n}.wav") for n in (1, 2, 3)]
    contents = {(tmp_path / f"song-{n}.mid").read_bytes() for n in (1, 2, 3)}
    assert len(contents) == 3
    again = tmp_path / "again.wav"
    predict(capsys, "--meta", models[preset], "--prompt", "none", "--frames", 32, "--seed", 1, "--out", again)
    assert again.with_suffix(".mid").read_bytes() == (tmp_path / "song-2.mid").read_bytes()


@pytest.mark.usefixtures("stub_pictures")
def test_B05_predict_at_temperature_0_ignores_the_seed(models, tunes, tmp_path, capsys):
    takes = []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.wav"
        flags = ("--meta", models["notes-lstm"], "--prompt", tunes / "tune1.mid", "--frames", 20, "--temperature", 0)
        predict(capsys, *flags, "--seed", seed, "--out", out)
        takes.append(out.with_suffix(".mid").read_bytes())
    assert takes[0] == takes[1]


@pytest.mark.usefixtures("stub_pictures")
def test_predict_continuation_only_leaves_the_prompt_out(models, tunes, tmp_path, capsys):
    flags = ("--meta", models["roll-conv"], "--prompt", tunes / "tune1.mid", "--frames", 32)
    predict(capsys, *flags, "--out", tmp_path / "whole.wav")
    predict(capsys, *flags, "--out", tmp_path / "part.wav", "--continuation-only")
    whole, part = (read_song(tmp_path / f"{name}.mid") for name in ("whole", "part"))
    join = read_song(tunes / "tune1.mid").ticks
    expected = {(t.onset - join, t.pitch) for t in whole.notes if t.onset >= join}
    assert {(t.onset, t.pitch) for t in part.notes} == expected


def test_C09_prompt_may_be_a_list_of_notes_or_part_of_a_file(models, tunes, tmp_path, capsys):
    meta = models["notes-mlp"]
    made = predict(
        capsys, "--meta", meta, "--prompt", "notes:C4,E4,r,C4+Bb4", "--frames", 8, "--out", tmp_path / "a.wav"
    )
    assert made["prompt_seconds"] == pytest.approx(2.0)
    played = {(t.onset, t.pitch) for t in read_song(tmp_path / "a.mid").notes}
    assert {(0, 60), (480, 64), (1440, 60), (1440, 70)} <= played
    flags = ("--meta", meta, "--prompt", tunes / "tune0.mid", "--frames", 8, "--prompt-share", 0.5)
    half = predict(capsys, *flags, "--out", tmp_path / "b.wav")
    assert half["prompt_seconds"] == pytest.approx(read_song(tunes / "tune0.mid").seconds / 2, abs=0.01)
    status, error = predict(capsys, "--meta", meta, "--prompt", "notes:H4", "--frames", 8, "--out", tmp_path / "c.wav")
    assert status == 2
    assert "'H4' is not a note" in error


def test_C02_corpus_may_keep_one_program_and_roll_one_voice(tmp_path):
    from continuo.model.metadata import CorpusSection
    from continuo.symbolic.roll import RollCodec
    from corpus import load_songs

    notes = tuple(sorted([*tune(0).notes, *(SongNote(k * 480, 40, 480, 80, 33) for k in range(8))]))
    write_song_midi(Song("band", "band", notes, tune(0).ticks), tmp_path / "band.mid")
    write_song_midi(tune(1), tmp_path / "piano.mid")
    corpus = load_songs(CorpusSection(path=str(tmp_path), programs=(33,)))
    assert [song.id for song in corpus.pieces] == ["band.mid"]
    assert {note.pitch for note in corpus.pieces[0].notes} == {40}
    assert any("no note of the programs 33" in reason for _, reason in corpus.skipped)
    codec = RollCodec.fit([tune(0)], max_notes=1)
    assert codec.vocabulary == (codec.vocabulary[0],)
    alone = codec.decode(codec.encode(tune(0)))
    tops = [max(t.pitch for t in tune(0).notes if t.onset <= at < t.end) for at in range(0, tune(0).ticks, 240)
            if any(t.onset <= at < t.end for t in tune(0).notes)]  # fmt: skip
    kept = [t.pitch for at in range(0, tune(0).ticks, 240) for t in alone.notes if t.onset <= at < t.end]
    assert kept == tops


def test_endings_have_the_time_of_their_notes(models, tunes):
    """Events differ in length, so the time of an ending is that of the notes before it."""
    predictor = Predictor.load(models["notes-lstm"])
    torch.nn.init.constant_(predictor.model.ending.bias, -3.0)
    prompt = read_song(tunes / "tune0.mid")
    take = predictor.take(prompt, seed=2, until_end=True)
    song = take.song(2000)
    assert take.endings == [pytest.approx(song.seconds - prompt.seconds, abs=1e-6)]
    assert take.made < 2000


def test_empty_part_of_a_prompt_is_refused(models, tunes, tmp_path, capsys):
    flags = ["--meta", models["notes-mlp"], "--frames", 8, "--out", tmp_path / "a.wav"]
    late = Song("late", "late", (SongNote(960, 60, 480),), 1440)
    write_song_midi(late, tmp_path / "late.mid")
    status, error = predict(capsys, *flags, "--prompt", tmp_path / "late.mid", "--prompt-share", 0.5)
    assert (status, "leaves nothing" in error) == (2, True)
    status, error = predict(capsys, *flags, "--prompt", "none", "--prompt-share", 0.5)
    assert (status, "no share" in error) == (2, True)


def test_fresh_training_keeps_the_state_of_another_model(tunes, tmp_path):
    meta = train(tmp_path, tunes, "notes-mlp", steps=2)
    train(tmp_path, tunes, "notes-mlp", "--fresh", steps=2)
    assert not (tmp_path / "model.before.safetensors").exists()
    train(tmp_path, tunes, "notes-mlp", "--fresh", "--set", "architecture.hidden=8", steps=2)
    assert (tmp_path / "model.before.safetensors").exists()
    assert meta.with_suffix(".safetensors").exists()


def test_skipped_files_are_reported_even_when_quiet(tunes, tmp_path, capsys):
    import shutil

    shutil.copytree(tunes, tmp_path / "music")
    (tmp_path / "music" / "broken.mid").write_bytes(b"MThd\0\0")
    train(tmp_path, tmp_path / "music", "notes-mlp", steps=2)
    assert "skipped 1 of" in capsys.readouterr().err


def test_from_state_of_another_representation_is_refused(models, tunes, tmp_path, capsys):
    from train import main

    flags = ["--meta", str(tmp_path / "m.json"), "--corpus", str(tunes), "--set", "representation.kind=roll"]
    assert main([*flags, "--from", str(models["notes-mlp"].with_suffix(".safetensors"))]) == 2
    assert "representation of that state is chords, so a roll cannot start from it" in capsys.readouterr().err


def test_recording_as_prompt_of_a_notes_model_is_refused(models, tmp_path, capsys):
    import soundfile

    soundfile.write(tmp_path / "a.wav", melody(0), RATE_HZ)
    status, error = predict(
        capsys,
        "--meta",
        models["notes-lstm"],
        "--prompt",
        tmp_path / "a.wav",
        "--frames",
        5,
        "--out",
        tmp_path / "x.wav",
    )
    assert status == 2
    assert "cannot be read as notes" in error
    assert len(error.splitlines()) == 1


def test_B01_corpus_of_notes_reports_what_it_leaves_out(tunes, tmp_path, capsys):
    import shutil

    from corpus import main

    for path in tunes.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.mid").write_bytes(b"MThd\0\0")
    (tmp_path / "notes.txt").write_text("no music")
    drums = Song("d", "d", (SongNote(0, 36, 240, 80, 0, True),), 480)
    write_song_midi(drums, tmp_path / "drums.mid")
    write_song_midi(Song("e", "e", (), 480), tmp_path / "empty.mid")
    assert main([str(tmp_path), "--notes"]) == 0
    printed = capsys.readouterr()
    assert "4 pieces" in printed.out
    said = printed.out + printed.err
    for reason in ("there are only drums in it", "there is no note in it", "broken.mid", "neither audio nor a score"):
        assert reason in said


def test_B01_corpus_text_shows_a_score(tunes, capsys):
    from corpus import main

    assert main([str(tunes / "tune0.mid"), "--text"]) == 0
    assert "bar 1  beat 1" in capsys.readouterr().out


def test_C01_prepare_only_fills_the_cache_and_trains_nothing(tunes, tmp_path, capsys):
    from train import main

    meta = tmp_path / "m.json"
    flags = ["--meta", str(meta), "--corpus", str(tunes), "--preset", "notes-lstm", "--steps", "2", "--quiet", "--json"]
    assert main([*flags, "--prepare-only", *set_flags(TINY)]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["pieces"] == 3
    assert facts["frames"] > 60
    assert not meta.with_suffix(".safetensors").exists()
    assert main(["--meta", str(meta), "--quiet"]) == 0
    assert meta.with_suffix(".safetensors").exists()


def test_B04_epochs_limit_the_training(tunes, tmp_path, capsys):
    from train import main

    meta = tmp_path / "m.json"
    flags = ["--meta", str(meta), "--corpus", str(tunes), "--preset", "notes-mlp", "--quiet", "--json"]
    assert main([*flags, "--epochs", "3", *set_flags(TINY)]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    trained = Predictor.load(meta)
    lengths = [len(trained.featurizer.encode(read_song(path))) for path in sorted(tunes.iterdir())]
    windows = sum(-(-length // TINY["training.window"]) for length in lengths)
    held_out = max(-(-length // TINY["training.window"]) for length in lengths)
    batch_size = TINY["training.batch_size"]
    assert trained.metadata.training.epochs == 3
    assert 3 * (windows - held_out) / batch_size <= made["step"] <= 3 * windows / batch_size
    text = (tmp_path / "m.runs" / "training.csv").read_text().splitlines()
    assert text[0] == "step,seconds,training,held_out"
    assert len(text) >= 2


def test_one_file_trains_with_a_warning(tunes, tmp_path, capsys):
    from train import main

    flags = ["--meta", str(tmp_path / "m.json"), "--corpus", str(tunes / "tune0.mid"), "--preset", "notes-mlp"]
    assert main([*flags, "--steps", "2", *set_flags(TINY)]) == 0
    assert "the ends of 1 piece" in capsys.readouterr().err


@pytest.mark.parametrize(("preset", "layers"), [*((preset, 2) for preset in SYMBOLIC), ("roll-conv", 11)])
def test_C01_resumed_training_equals_an_uninterrupted_one(preset, layers, tunes, tmp_path):
    """Compare bit for bit, also with more than ten parts of state."""
    from continuo.model.checkpoint import load
    from continuo.model.metadata import load as load_metadata
    from trainer import build_trainer

    size = {"architecture.layers": layers}
    whole = train(tmp_path, tunes, preset, steps=8, name="whole", **size)
    meta = train(tmp_path, tunes, preset, "--prepare-only", steps=8, name="parts", **size)
    for until in (3, 8):
        trainer = build_trainer(load_metadata(meta), meta.with_suffix(".safetensors"), torch.device("cpu"))
        trainer.run(lambda t, until=until: t.stop() if t.progress.step == until else None)
    a, b = (load(path.with_suffix(".safetensors"))[0] for path in (whole, meta))
    assert trainer.progress.step == 8
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_E09_scratch_engine_has_the_losses_of_torch(tunes, tmp_path):
    from trainer import build_trainer

    found = {}
    for engine in ("torch", "scratch"):
        overrides = TINY | {"training.engine": engine, "corpus.path": str(tunes), "training.steps": 12}
        meta = from_preset("notes-mlp", overrides, state="m.safetensors")
        trainer = build_trainer(meta, tmp_path / f"{engine}.safetensors", torch.device("cpu"))
        losses = []
        step = trainer._torch_step if engine == "torch" else lambda b, t=trainer: t._scratch_step(t.scratch, b)
        batches = iter(__import__("dataset").training_batches(trainer.train_set, trainer.sampler))
        for _ in range(12):
            losses.append(step(next(batches)))
            trainer.progress.step += 1
        found[engine] = losses
    assert found["torch"][-1] < 0.9 * found["torch"][0]
    np.testing.assert_allclose(found["scratch"], found["torch"], rtol=1e-6, atol=1e-6)


def test_E09_training_may_change_its_engine(tunes, tmp_path):
    meta = train(tmp_path, tunes, "notes-mlp", steps=4, **{"training.engine": "scratch"})
    train(tmp_path, tunes, "notes-mlp", "--set", "training.engine=torch", steps=8)
    predictor = Predictor.load(meta)
    assert predictor.step == 8


def test_scratch_engine_refuses_other_architectures(tunes, tmp_path, capsys):
    from train import main

    flags = ["--meta", str(tmp_path / "m.json"), "--corpus", str(tunes), "--preset", "roll-conv", "--steps", "2"]
    assert main([*flags, "--quiet", *set_flags(TINY | {"training.engine": "scratch"})]) == 2
    assert "perceptrons" in capsys.readouterr().err


def test_continuation_lengthens_a_held_note():
    prompt = Song("p", "p", (SongNote(0, 60, QUARTER),), QUARTER)
    known = prompt
    whole = Song("w", "w", (SongNote(0, 60, 2 * QUARTER), SongNote(QUARTER, 64, QUARTER)), 2 * QUARTER)
    assert continued(prompt, known, whole).notes == whole.notes


def test_prompt_out_of_range_is_moved_with_a_warning(models, tmp_path, capsys):
    from predict import main

    write_song_midi(Song("h", "h", (SongNote(0, 110, 480), SongNote(480, 72, 480)), 960), tmp_path / "high.mid")
    flags = ["--meta", str(models["roll-conv"]), "--prompt", str(tmp_path / "high.mid"), "--frames", "4"]
    assert main([*flags, "--out", str(tmp_path / "x.wav")]) == 0
    assert "1 note of the prompt is beyond" in capsys.readouterr().err


def test_ties_of_one_pitch_in_two_voices_read_back(tmp_path):
    notes = (SongNote(0, 60, 2880), SongNote(480, 60, 960), SongNote(1440, 60, 1440), SongNote(2400, 64, 480))
    write_musicxml(Song("s", "s", notes, 3840), tmp_path / "s.musicxml", title="ties")
    assert [(t.onset, t.pitch, t.length) for t in read_song(tmp_path / "s.musicxml").notes] == [
        (t.onset, t.pitch, t.length) for t in notes
    ]


def test_presets_are_complete():
    names = set(preset_names())
    assert names == {"codec-lstm", "spectral-lstm", *SYMBOLIC}
    for name in names:
        from_preset(name, {}, state="x.safetensors")


def test_very_long_song_is_written_without_musicxml_with_a_warning(models, tmp_path, capsys, monkeypatch):
    from predict import main

    monkeypatch.setattr("continuo.symbolic.engraving.MAX_BARS", 3)
    write_song_midi(Song("l", "l", (SongNote(0, 60, 480), SongNote(8000, 62, 480)), 9600), tmp_path / "long.mid")
    flags = ["--meta", models["notes-lstm"], "--prompt", tmp_path / "long.mid", "--frames", 3, "--json", "--quiet"]
    assert main([*map(str, flags), "--out", str(tmp_path / "x.wav")]) == 0
    printed = capsys.readouterr()
    assert "no MusicXML, the MIDI file has it all:" in printed.err
    made = json.loads(printed.out.splitlines()[-1])
    assert "musicxml" not in made
    assert (tmp_path / "x.mid").is_file()
    assert not (tmp_path / "x.musicxml").exists()
