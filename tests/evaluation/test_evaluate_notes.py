"""Evaluation of models of notes: figures that are identities, the diagnosis, the page and the command."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, set_flags
from reports import changed

from continuo.symbolic.song import MAJOR, QUARTER, Song, SongNote
from continuo.symbolic.writing import write_song_midi
from continuo.system.progress import Display
from corpus import Corpus, load_songs
from evaluate import main
from evaluation.base import Plan
from evaluation.diagnosis import MIN_COPY, diagnose
from evaluation.excerpts import bounded, load_split, song_excerpts
from evaluation.ngrams import Copies
from evaluation.notes import NotesEvaluation, copied_fraction, repeated, statistics
from evaluation.report import page
from predictor import Predictor, SongTake

FLAGS = ("--pieces", "2", "--long", "10", "--device", "cpu", "--quiet")
SMALL_NOTES = {key: value for key, value in SMALL.items() if key != "corpus.sample_rate_hz"} | {
    "corpus.sample_rate_hz": 8000,
    "architecture.layers": 1,
    "training.learning_rate": 0.01,
}


def tune(seed, beats=80, qpm=120.0):
    """Return a walk over a major scale in quarters and eighths, without notes that last over a beat."""
    rng = np.random.default_rng(seed)
    notes, degree = [], 7
    for beat in range(beats):
        parts = int(rng.integers(1, 3))
        for part in range(parts):
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 14))
            pitch = 55 + 12 * (degree // 7) + MAJOR[degree % 7]
            notes.append(SongNote(beat * QUARTER + part * QUARTER // 2, pitch, QUARTER // parts))
    return Song(f"{seed}", f"{seed}", tuple(notes), beats * QUARTER, ((0, qpm),))


def folder_of(folder, songs):
    folder.mkdir(exist_ok=True)
    for name, song in songs.items():
        write_song_midi(song, folder / f"{name}.mid")
    return folder


def train_notes(folder, music, preset, steps, **extra):
    from train import main

    folder.mkdir(exist_ok=True)
    meta = folder / f"{preset}.json"
    flags = ["--preset", preset, "--corpus", str(music), "--steps", str(steps), "--device", "cpu", "--quiet"]
    values = SMALL_NOTES | {key.replace("__", "."): value for key, value in extra.items()}
    assert main(["--meta", str(meta), *flags, *set_flags(values)]) == 0
    return meta


def read(folder):
    return json.loads((folder / "report.json").read_text())


def cells(words, html):
    """Return the figures of the first row of a table that starts with these words."""
    row = re.search(rf"<tr><td>{re.escape(words)}</td>.*?</tr>", html)[0]
    return re.findall(r"<td>(–|[\d.,]+)</td>", row)


def measured(meta):
    return NotesEvaluation(meta, Predictor.load(meta), Plan(2, 20.0, 8.0, 10.0), Display(quiet=True)).report()


def names(report):
    return {finding["name"] for finding in report["verdict"]}


@pytest.fixture(scope="module")
def tunes(tmp_path_factory):
    """Return a folder of eight tunes of 40 s and 27 s, with names that HTML must escape."""
    songs = {f"<b>{seed}&": tune(seed, qpm=120.0 if seed % 2 else 180.0) for seed in range(8)}
    return folder_of(tmp_path_factory.mktemp("tunes"), songs)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tunes):
    return train_notes(tmp_path_factory.mktemp("mlp"), tunes, "notes-mlp", 12, architecture__window=4)


@pytest.fixture(scope="module")
def roll(tmp_path_factory, tunes):
    return train_notes(tmp_path_factory.mktemp("conv"), tunes, "roll-conv", 4)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, model):
    out = tmp_path_factory.mktemp("out") / "report"
    assert main(["--meta", str(model), "--out", str(out), *FLAGS]) == 0
    return out


# --- excerpts and measures -------------------------------------------------------------------------------------------


def test_A12_song_excerpts_start_with_the_song_and_join_at_beats():
    songs = [tune(seed, qpm=90.0) for seed in range(3)]  # a beat lasts 2/3 s
    found = song_excerpts(songs, count=3, prompt_seconds=8, seconds=20)
    assert [(e.song.id, e.start, e.join, e.stop) for e in found] == [
        (f"{seed}", 0, 12 * QUARTER, 42 * QUARTER) for seed in range(3)
    ]
    for excerpt in found:
        after = [replace(t, onset=t.onset + excerpt.join) for t in excerpt.real.notes]
        assert [*excerpt.prompt.notes, *after] == [t for t in excerpt.song.notes if t.onset < excerpt.stop]


def test_A12_song_excerpts_of_few_songs_do_not_overlap():
    found = song_excerpts([tune(0, beats=240), tune(1, beats=100)], count=4, prompt_seconds=8, seconds=20)
    assert [(e.song.id, e.start // QUARTER) for e in found] == [("0", 0), ("1", 0), ("0", 56), ("0", 112)]
    assert all(a.stop <= b.start for a, b in zip([found[0], found[2]], found[2:], strict=True))
    assert len(song_excerpts([tune(0, beats=240)], count=2, prompt_seconds=8, seconds=20)) == 2


def test_A12_song_excerpts_of_short_songs_have_a_third_as_prompt():
    (excerpt,) = song_excerpts([tune(0, beats=12)], count=4, prompt_seconds=8, seconds=20)
    assert (excerpt.join, excerpt.stop) == (4 * QUARTER, 12 * QUARTER)
    with pytest.raises(ValueError, match="hold more songs out"):
        song_excerpts([tune(0, beats=3)], count=1, prompt_seconds=8, seconds=20)


def test_A12_bounded_songs_have_the_given_seconds():
    songs = [tune(seed, beats=20) for seed in range(5)]  # 10 s each
    assert sum(song.seconds for song in bounded(songs, 25, seed=0)) == pytest.approx(25, abs=0.01)
    assert bounded(songs, 1000, seed=0) == songs


def test_A12_statistics_of_songs_are_means_over_those_that_have_them():
    """One song has four quarters a bar on C and G, the other has no bar to compare and no pitch."""
    square = Song("", "", tuple(SongNote(k * QUARTER, 60 + 7 * (k % 2), QUARTER) for k in range(16)), 16 * QUARTER)
    drum = Song("", "", (SongNote(0, 38, 100, is_drum=True),), QUARTER)
    found = statistics([square, drum])
    assert found["pitch_class_entropy"] == pytest.approx(1)
    assert found["scale_consistency"] == 1
    assert found["groove_consistency"] == 1
    assert found["notes_per_second"] == pytest.approx(2)
    assert found["mean_pitch"] == pytest.approx(63.5)
    assert found["stuck"] == 0.5
    assert statistics([drum])["mean_pitch"] is None


def test_A12_copied_fraction_counts_stretches_and_not_songs():
    known, other = tune(0), tune(1, beats=40)
    copies = Copies([known])
    whole, none = copied_fraction(copies, [known]), copied_fraction(copies, [other])
    assert (whole, none) == (1, 0)
    weight = {song.id: len(song.notes) - 1 - 7 for song in (known, other)}
    assert copied_fraction(copies, [known, other]) == pytest.approx(weight["0"] / sum(weight.values()))
    assert copied_fraction(copies, [tune(2, beats=1)]) is None


def test_A12_repeated_of_a_loop_is_one():
    phrase = tune(0, beats=16)
    round_and_round = replace(
        phrase, ticks=4 * phrase.ticks,
        notes=tuple(replace(t, onset=t.onset + k * phrase.ticks) for k in range(4) for t in phrase.notes),
    )  # fmt: skip
    assert repeated(round_and_round) == 1
    assert repeated(tune(1)) < 0.2


# --- the diagnosis ---------------------------------------------------------------------------------------------------

LOSSES = {"model": 5.0, "training": 4.9, "unigram": 10.0, "copy_last": 8.0}
GOOD = {
    "model": {"hears": "notes", "preset": "notes-mlp", "hidden": 512},
    "held_out": {name: {"nats_per_step": nats} for name, nats in LOSSES.items()},
    "training": {"improving": False, "risen": 0.0, "again": "train.py --minutes 20"},
    "free_runs": {
        "generated": {"notes_per_second": 4.0, "scale_consistency": 0.95, "stuck": 0.0},
        "real": {"notes_per_second": 4.0, "scale_consistency": 0.97, "stuck": 0.0},
    },
    "long_run": {
        "stuck": None,
        "notes_per_second_by_part": [2.0, None, 2.0, 3.0],
        "real_notes_per_second": 2.0,
        "repeated": 0.1,
        "real_repeated": 0.1,
    },
    "novelty": {
        "stretch": 8,
        "generated": {"share": 0.1, "longest": 12, "of": "a.mid"},
        "held_out": {"share": 0.1, "longest": 12, "of": ""},
    },
}
MODEL, TRAIN = "held_out.model.nats_per_step", "held_out.training.nats_per_step"
MADE, REAL, LONG = "free_runs.generated.", "free_runs.real.", "long_run."
COPIED, HELD_OUT = "novelty.generated.", "novelty.held_out."
FINDINGS = [
    ({}, {"learning", "generalising", "close", "novel"}),
    ({MODEL: 8.1, TRAIN: 8.1}, {"untrained", "close", "novel"}),
    ({MODEL: 7.0, TRAIN: 2.0}, {"memorising", "close", "novel"}),
    ({"training.risen": 0.1, "model.preset": None}, {"memorising", "close", "novel"}),
    ({"training.improving": True}, {"learning", "generalising", "improving", "close", "novel"}),
    ({MADE + "stuck": 0.5}, {"learning", "generalising", "frozen", "novel"}),
    (
        {MADE + "stuck": 0.2, LONG + "stuck": "Its second half is silent."},
        {"learning", "generalising", "frozen", "novel"},
    ),
    (
        {MADE + "stuck": 0.9, REAL + "stuck": 0.9, LONG + "stuck": "x."},
        {"learning", "generalising", "close", "novel"},
    ),
    ({LONG + "notes_per_second_by_part": [2.0, 0.2]}, {"learning", "generalising", "fading", "novel"}),
    ({LONG + "repeated": 0.9}, {"learning", "generalising", "looping", "novel"}),
    ({LONG + "repeated": 0.9, LONG + "real_repeated": 0.7}, {"learning", "generalising", "close", "novel"}),
    ({MADE + "notes_per_second": 8.0}, {"learning", "generalising", "noisy", "novel"}),
    ({MADE + "notes_per_second": 1.6}, {"learning", "generalising", "sluggish", "novel"}),
    ({MADE + "notes_per_second": 1.6, MADE + "stuck": 1.0}, {"learning", "generalising", "frozen", "novel"}),
    ({MADE + "scale_consistency": 0.8}, {"learning", "generalising", "wandering", "novel"}),
    ({COPIED + "share": 0.3}, {"learning", "generalising", "close", "copying"}),
    ({COPIED + "share": 0.7, HELD_OUT + "share": 0.5}, {"learning", "generalising", "close", "novel"}),
    ({COPIED + "longest": MIN_COPY + 1}, {"learning", "generalising", "close", "copying"}),
    (
        {COPIED + "longest": MIN_COPY - 1, HELD_OUT + "longest": 2},
        {"learning", "generalising", "close", "novel"},
    ),
    ({COPIED + "longest": 40, HELD_OUT + "longest": 21}, {"learning", "generalising", "close", "novel"}),
]


@pytest.mark.parametrize(("change", "expected"), FINDINGS)
def test_A12_every_finding_on_notes_has_its_words(change, expected):
    found = diagnose(changed(GOOD, change))
    assert {finding.name for finding in found} == expected
    for finding in found:
        assert finding.text.endswith(".")
        assert "nan" not in finding.text
        assert bool(finding.advice) != (finding.name in ("learning", "generalising", "close", "novel"))


def losses_alone(changes):
    """Return a report that has no figures but the losses."""
    nothing = dict.fromkeys(GOOD["free_runs"]["real"])
    report = GOOD | {"free_runs": {"real": nothing, "generated": nothing}, "long_run": None, "novelty": None}
    return changed(report, changes)


def test_A12_diagnosis_of_notes_needs_only_the_losses():
    found = {finding.name for finding in diagnose(losses_alone({"training.improving": True}))}
    assert found == {"learning", "generalising", "improving"}


# --- the command -----------------------------------------------------------------------------------------------------


def test_A12_report_on_notes_holds_every_figure(evaluated):
    report = read(evaluated)
    keys = {"model", "plan", "training", "held_out", "free_runs", "long_run", "novelty", "notes", "verdict", "beside"}
    assert report.keys() == keys | {"seconds_taken"}
    assert (report["model"]["hears"], report["model"]["preset"]) == ("notes", "notes-mlp")
    assert (report["plan"]["seconds"], report["plan"]["prompt_seconds"]) == (20, 8)
    assert report["free_runs"].keys() == {"excerpts", "real", "generated"}
    measures = {"pitch_class_entropy", "scale_consistency", "groove_consistency", "notes_per_second", "mean_pitch"}
    for side in ("real", "generated"):
        assert report["free_runs"][side].keys() == measures | {"stuck"}
    assert report["free_runs"]["real"]["scale_consistency"] == 1
    run = report["long_run"]
    assert len(run["notes_per_second_by_part"]) == 4
    new = report["novelty"]
    assert new["generated"].keys() == new["held_out"].keys() == {"share", "longest", "of"}
    assert any("only 2 excerpts: --pieces" in note for note in report["notes"])
    assert "novel" in names(report)
    assert report["training"]["again"].endswith("notes-mlp.json --steps 24")


def test_A12_bits_per_second_and_beat_use_the_time_of_the_scored_music(evaluated, model):
    """The sum over songs is the loss of their steps over their time, without that of the first step."""
    predictor = Predictor.load(model)
    nats = seconds = beats = steps = 0.0
    for song in load_split(predictor, model, load_songs)[1]:
        codes = predictor.featurizer.encode(song)[None]
        with torch.inference_mode():
            costs, _ = predictor.model.nll(codes[:, :-1], codes[:, 1:], predictor.model.initial_state(1))
        share = 1 - 1 / codes.shape[1]
        nats, steps = nats + float(costs.sum()), steps + codes.shape[1] - 1
        seconds, beats = seconds + share * song.seconds, beats + share * song.ticks / QUARTER
    found = read(evaluated)["held_out"]
    assert found["frames"] == steps
    assert found["model"]["nats_per_step"] == pytest.approx(nats / steps, rel=1e-4)
    assert found["model"]["bits_per_second"] == pytest.approx(nats / seconds / math.log(2), rel=1e-4)
    assert found["model"]["bits_per_beat"] == pytest.approx(nats / beats / math.log(2), rel=1e-4)


def test_A12_page_on_notes_stands_alone_and_escapes_names(evaluated):
    html = (evaluated / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 5
    assert html.count("data:audio/flac;base64,") == 4
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|<script|<link|@import|url\(|<b>\d", bare)
    assert "&lt;b&gt;" in bare
    assert "bits per beat" in bare
    assert "notes per second" in bare


def test_A12_models_of_sound_and_of_notes_share_tables(model, roll, trained, tmp_path):
    flags = ["--pieces", "1", "--seconds", "2", "--prompt-seconds", "0.5", "--long", "0", "--quiet"]
    out = tmp_path / "o"
    assert main(["--meta", str(model), "--out", str(out), "--beside", str(trained), str(roll), *flags]) == 0
    report = read(out)
    sound, rolled = report["beside"]
    assert (sound["model"]["hears"], rolled["model"]["hears"]) == ("sound", "notes")
    assert sound["held_out"]["model"]["bits_per_beat"] is None
    costs = rolled["held_out"]["model"]  # a step is a 16th
    assert costs["bits_per_beat"] == pytest.approx(4 * costs["nats_per_step"] / math.log(2), rel=1e-3)
    assert any("model is a model of sound" in note for note in report["notes"])
    assert report["long_run"] is None
    turned = report | sound | {"novelty": None, "beside": [rolled]}  # as if the model of sound had been asked for
    for html in ((out / "report.html").read_text(), page(turned, {}, [])):
        costs, runs = html.split("<h2>Free runs</h2>")
        assert "squared MMD" in runs
        assert "in one scale" in runs
        assert cells("roll-conv (for comparison)", costs)[4:] == ["–"] * 2  # it has one level of the others' three
        assert "–" not in cells("roll-conv (for comparison)", costs)[:4]
        assert cells("roll-conv (for comparison)", runs)[:7] == ["–"] * 7
        assert "–" not in cells("roll-conv (for comparison)", runs)[-3:]
    assert cells("model (for comparison)", (out / "report.html").read_text())[2] == "–"


@pytest.mark.parametrize(("pitches", "name"), [((60,), "frozen"), ((60, 61, 62, 63, 64), "wandering")])
def test_A12_faulty_notes_are_diagnosed(model, monkeypatch, pitches, name):
    def song(take, count):
        prompt = take.prompt
        more = [SongNote(prompt.ticks + k * QUARTER, pitches[k % len(pitches)], QUARTER) for k in range(count)]
        return replace(prompt, notes=(*prompt.notes, *more), ticks=prompt.ticks + count * QUARTER)

    monkeypatch.setattr(SongTake, "song", song)
    report = measured(model)
    assert name in names(report)
    assert (report["long_run"]["stuck"] is not None) == (name == "frozen")
    assert report["free_runs"]["generated"]["stuck"] == (name == "frozen")


def test_A12_memorized_tune_is_diagnosed_as_a_copy(tmp_path, monkeypatch):
    """The held-out tune starts like the training tune, so a model that memorized it continues with that one."""
    monkeypatch.setattr("corpus.FEW", 0)  # a whole tune is held out, as of many
    learned, other = tune(0), tune(1)
    join = 16 * QUARTER
    alike = learned.excerpt(0, join, "").notes
    mixed = replace(other, notes=(*alike, *(t for t in other.notes if t.onset >= join)))
    music = folder_of(tmp_path / "music", {"a": learned, "b": mixed})
    pair = Corpus((replace(learned, id="a.mid"), replace(mixed, id="b.mid")), ())
    seed = next(seed for seed in range(99) if pair.split(0.25, seed)[1][0].id == "b.mid")
    size = {"architecture__hidden": 64, "architecture__window": 8, "training__window": 64}
    extra = size | {"training__seed": seed, "training__validate_every_steps": 999, "training__average_decay": 0.9}
    report = measured(train_notes(tmp_path, music, "notes-mlp", 250, **extra))
    assert "copying" in names(report)
    assert report["novelty"]["generated"]["of"] == "a.mid"


def test_A12_a_corpus_of_one_tune_is_evaluated(tmp_path):
    music = folder_of(tmp_path / "music", {"one": tune(0, beats=200)})
    report = measured(train_notes(tmp_path, music, "notes-mlp", 2))
    assert report["model"]["held_out_pieces"] == 1
    assert any("1 of 1 excerpts are shorter than 28 s" in note for note in report["notes"])
    assert report["free_runs"]["excerpts"] == 1


def test_A12_too_little_held_out_music_gives_one_line(tmp_path, capsys):
    music = folder_of(tmp_path / "music", {"one": tune(0, beats=30)})  # of which three beats are held out
    meta = train_notes(tmp_path, music, "notes-mlp", 2)
    capsys.readouterr()
    assert main(["--meta", str(meta), "--out", str(tmp_path / "o"), *FLAGS]) == 2
    error = capsys.readouterr().err
    assert "hold more songs out" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
