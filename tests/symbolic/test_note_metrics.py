"""Metrics of songs against values by hand and against those published for Bach."""

import json
import math
import random

import pytest

from continuo.symbolic import note_metrics
from continuo.symbolic.song import QUARTER, Song, SongNote, pitch_name, program_name


def line(*pitches: int | tuple[int, ...], step: int = QUARTER, ticks: int = 0) -> Song:
    """Return a song of notes or chords in a row; 0 is a rest."""
    groups = [p if isinstance(p, tuple) else (p,) for p in pitches]
    notes = [SongNote(k * step, pitch, step) for k, group in enumerate(groups) for pitch in group if pitch]
    return Song("s", "s", tuple(sorted(notes)), ticks or len(groups) * step)


def test_pitch_class_entropy_equals_values_by_hand():
    assert note_metrics.pitch_class_entropy(line(60, 72, 48)) == 0  # octaves are alike
    assert note_metrics.pitch_class_entropy(line(60, 62, 64, 65)) == pytest.approx(2)
    assert note_metrics.pitch_class_entropy(line(60, 60, 60, 67)) == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)
    assert note_metrics.pitch_class_entropy(line(*range(60, 72))) == pytest.approx(math.log2(12))


def test_best_scale_has_its_tonic_and_fraction():
    flats = (63, 65, 67, 68, 70, 72, 74)
    assert line(*flats).best_scale() == (3, 1.0)
    assert line(57, 59, 60, 62, 64, 65, 67).best_scale() == (0, 1.0)  # A minor
    assert note_metrics.scale_consistency(line(*flats, 64)) == pytest.approx(7 / 8)
    assert note_metrics.scale_consistency(line(*range(60, 72))) == pytest.approx(7 / 12)


def test_metrics_of_percussion_are_nan():
    drums = Song("d", "d", (SongNote(0, 36, 10, is_drum=True), SongNote(480, 38, 10, is_drum=True)), 1920)
    assert math.isnan(note_metrics.pitch_class_entropy(drums))
    assert math.isnan(note_metrics.scale_consistency(drums))
    assert note_metrics.note_counts(drums).pitches == {}


def test_groove_consistency_counts_places_that_differ():
    assert note_metrics.groove_consistency(line(*[60] * 16)) == 1
    # Bar 2 has no onset on its fourth beat: one place of 48 differs, or one of 16, and so again in bar 3.
    gap = line(*[60] * 7, 0, *[60] * 4)
    assert note_metrics.groove_consistency(gap) == pytest.approx(1 - 1 / 48)
    assert note_metrics.groove_consistency(gap, positions=4) == pytest.approx(1 - 1 / 16)


def test_groove_consistency_across_meters_compares_the_shorter_bar():
    notes = tuple(SongNote(tick, 60, 100) for tick in (0, 480, 1440, 1920, 2400))
    song = Song("s", "s", notes, 3360, meters=((0, 4, 4), (1920, 3, 4)))
    assert note_metrics.groove_consistency(song) == 1  # they differ in the fourth beat alone
    assert math.isnan(note_metrics.groove_consistency(Song("s", "s", notes, 1920)))  # a single bar


def test_groove_consistency_moves_an_early_onset_to_its_bar():
    early = Song("s", "s", (SongNote(0, 60, 100), SongNote(1915, 60, 100)), 3840)
    assert note_metrics.groove_consistency(early) == 1


def test_E12_note_counts_finds_the_riff_of_the_top_voice():
    tune = [60, 64, 67, 72, 71]
    song = line(*tune, *[p + 5 for p in tune], 70, 61, *tune)
    bass = tuple(SongNote(k * QUARTER, 36 + k % 5, QUARTER) for k in range(17))
    song = Song("s", "s", tuple(sorted(song.notes + bass)), song.ticks)
    counts = note_metrics.note_counts(song)
    assert counts.riff == ((4, 12), (3, 12), (5, 12), (-1, 12))
    assert counts.riff_count == 3
    assert counts.pitches[67] == 2
    assert sum(counts.pitches.values()) == 34
    assert note_metrics.note_counts(line(60, 62, 67)).mean_pitch == 63


def test_top_voice_ignores_notes_below_a_held_note():
    held = Song(
        "s", "s", (SongNote(0, 72, 960), SongNote(480, 60, 480), SongNote(960, 65, 480), SongNote(1200, 69, 240)), 1440
    )
    assert note_metrics.top_voice(held) == [(0, 72), (960, 65), (1200, 69)]


@pytest.mark.parametrize(
    ("song", "words"),
    [
        (line(ticks=QUARTER), "silent"),
        (line(60, 62, ticks=20 * QUARTER), "second half is silent"),
        (line(*[60] * 20), "one note again and again: 20 of 20 onsets are C4"),
        (line(*[(60, 64, 67)] * 19, 62), "one chord again and again: 19 of 20 onsets are C4 E4 G4"),
        (line(60, 62, 64, 65, 67, 65, 64, 62, *[61] * 8), "second half is one note again and again: 8 of 8"),
        (Song("d", "d", tuple(SongNote(k * 240, 42, 10, is_drum=True) for k in range(16)), 3840), "drum42"),
    ],
)
def test_stuck_of_repetition_or_silence_says_so(song, words):
    assert words in note_metrics.stuck(song)


@pytest.mark.parametrize(
    "song",
    [
        line(60, 62, 64, 65, 67, 65, 64, 62),
        line(*[(60, 64), (60, 64), (59, 62)] * 6),
        line(*[60, 62] * 10),
        line(60, 62, 64, 60, 60, 60),  # too few onsets in its second half to say
        line(*[60] * 18, 62, 64),  # nine tenths, not more
    ],
)
def test_stuck_of_varied_music_is_none(song):
    assert note_metrics.stuck(song) is None


def test_metrics_of_random_music_are_as_expected():
    dice = random.Random(0)
    song = line(*[dice.randrange(48, 84) for _ in range(4000)])
    assert note_metrics.pitch_class_entropy(song) == pytest.approx(math.log2(12), abs=0.01)
    assert note_metrics.scale_consistency(song) == pytest.approx(7 / 12, abs=0.03)


def test_E12_metrics_of_bach_are_those_published(shared_data):
    """MusPy's table for the test split: 3.03 bits, 0.930 in scale, groove 0.802; the validation split is near.

    Frames of a 16th, a pitch that goes on is held; groove comes near at 16ths, at 12 places a quarter it is 0.94.
    """
    songs = []
    for piece in json.loads((shared_data / "jsb" / "jsb-chorales-16th.json").read_text())["valid"]:
        notes, begun = [], {}
        for k, frame in enumerate([*piece, []]):
            now = {int(pitch) for pitch in frame}
            notes += [SongNote(begun[p] * 120, p, (k - begun.pop(p)) * 120) for p in list(begun) if p not in now]
            begun |= {p: k for p in now if p not in begun}
        songs.append(Song("bach", "bach", tuple(sorted(notes)), len(piece) * 120))

    def mean(figures):
        return sum(figures) / len(songs)

    assert mean(map(note_metrics.pitch_class_entropy, songs)) == pytest.approx(3.03, abs=0.03)
    assert mean(map(note_metrics.scale_consistency, songs)) == pytest.approx(0.930, abs=0.01)
    assert mean(note_metrics.groove_consistency(song, 4) for song in songs) == pytest.approx(0.802, abs=0.02)
    assert not any(map(note_metrics.stuck, songs))


def test_names_of_pitches_and_programs():
    assert (pitch_name(61), program_name(False, 40)) == ("C#4", "Violin")
