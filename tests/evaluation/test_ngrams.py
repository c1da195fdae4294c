"""Copies of training songs are found in any key, with their length; original music shares little."""

import math
import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from continuo.symbolic.song import Song, SongNote
from evaluation.ngrams import Copies, events


def chance(seed: int, onsets: int, name: str = "") -> Song:
    """Return random chords at random distances of whole 12ths of a quarter."""
    dice = random.Random(seed)
    notes, now = [], 0
    for _ in range(onsets):
        for pitch in dice.sample(range(48, 84), dice.choice([1, 1, 2, 3, 4])):
            notes.append(SongNote(now, pitch, dice.choice([120, 240, 480])))
        now += 40 * dice.choice([3, 4, 6, 8, 12])
    return Song(name or f"song{seed}", "chance", tuple(sorted(notes)), now)


def joined(*songs: Song) -> Song:
    """Return the songs one after the other."""
    notes, now = [], 0
    for song in songs:
        notes += [replace(t, onset=t.onset + now) for t in song.notes]
        now += song.ticks
    return Song("joined", "joined", tuple(sorted(notes)), now)


def cut(song: Song, first: int, last: int) -> Song:
    """Return onsets `first` to `last` of a song, the last excluded."""
    onsets = [*sorted({t.onset for t in song.notes}), song.ticks]
    return song.excerpt(onsets[first], onsets[last], "cut")


@cache
def training_songs() -> list[Song]:
    return [chance(seed, 300) for seed in range(40)]


@cache
def training_copies() -> Copies:
    return Copies(training_songs())


def slow_longest(song: Song, training: list[Song]) -> int:
    """Return the length of the longest common stretch, by the definition."""
    best = 0
    for other in map(events, training):
        row = [0] * (len(other) + 1)
        for event in events(song):
            row = [0, *(row[k] + 1 if event == known else 0 for k, known in enumerate(other))]
            best = max(best, *row)
    return best


@pytest.mark.parametrize("semitones", [0, 5, -7])
def test_N4_longest_finds_a_planted_copy_in_any_key(semitones):
    planted = cut(training_songs()[17], 100, 150).transposed(semitones)
    song = joined(chance(1000, 40), planted, chance(1001, 40))
    assert training_copies().longest(song) == (49, "song17")  # 50 onsets are 49 steps from one to the next
    assert training_copies().longest(planted) == (49, "song17")
    assert training_copies().fraction(planted) == 1
    assert training_copies().fraction(song) == pytest.approx((49 - 7) / (len(events(song)) - 7), abs=0.02)


def test_longest_of_a_changed_copy_ends_at_the_change():
    notes = list(cut(training_songs()[3], 0, 60).notes)
    k = next(k for k, t in enumerate(notes) if t.onset >= 40 * 12 * 15)
    notes[k] = replace(notes[k], pitch=90)
    found, name = training_copies().longest(Song("s", "s", tuple(sorted(notes)), 40_000))
    assert name == "song3"
    assert found < 58
    assert slow_longest(Song("s", "s", tuple(sorted(notes)), 40_000), training_songs()[3:4]) == found


def test_events_ignore_lengths_velocities_programs_and_percussion():
    song = cut(training_songs()[5], 20, 60)
    other = [replace(t, length=7, velocity=33, program=40) for t in song.notes]
    drums = [SongNote(k * 130, 36, 20, is_drum=True) for k in range(50)]
    disguised = Song("s", "s", tuple(sorted(other + drums)), song.ticks)
    assert training_copies().longest(disguised) == (39, "song5")


def test_events_of_a_copy_shifted_by_less_than_the_grid_are_the_same():
    song = cut(training_songs()[8], 0, 40)
    moved = replace(song, notes=tuple(replace(t, onset=t.onset + 17) for t in song.notes))
    assert events(moved) == events(song)


def test_longest_and_fraction_of_original_music_are_small():
    for seed in range(2000, 2010):
        song = chance(seed, 300)
        assert training_copies().longest(song)[0] <= 4
        assert training_copies().fraction(song) == 0
        assert training_copies().fraction(song, n=1) > 0.05  # single steps are common property


def test_longest_does_not_cross_from_one_training_song_into_the_next():
    copies = Copies(
        [cut(training_songs()[0], 0, 20), cut(training_songs()[0], 19, 40)]
    )  # the steps of the second follow the first's
    assert copies.longest(cut(training_songs()[0], 0, 40))[0] == 20


def test_longest_and_fraction_of_short_songs_are_empty():
    assert training_copies().longest(Song("s", "s", (), 480)) == (0, "")
    assert training_copies().longest(Song("s", "s", (SongNote(0, 60, 480),), 480)) == (0, "")
    assert math.isnan(training_copies().fraction(cut(training_songs()[0], 0, 8)))  # eight onsets, seven steps
    assert training_copies().fraction(cut(training_songs()[0], 0, 9)) == 1
    assert Copies([]).longest(training_songs()[0]) == (0, "")
    assert Copies([]).fraction(training_songs()[0]) == 0
    with pytest.raises(ValueError, match="at least 1 event, not 0"):
        training_copies().fraction(training_songs()[0], n=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 1)), max_size=12), min_size=1, max_size=4))
def test_longest_equals_the_slow_definition(lines):
    songs = []
    for number, steps in enumerate(lines):
        notes, now = [], 0
        for step, pitch in steps:
            now += step * 120
            notes.append(SongNote(now, 60 + pitch, 120))
        songs.append(Song(f"s{number}", "", tuple(notes), now + 120))
    *training, song = songs
    found, name = Copies(training).longest(song)
    assert found == slow_longest(song, training)
    if found:
        assert slow_longest(song, [s for s in training if s.id == name]) == found


def test_longest_searches_each_event_twice_at_most():
    """Count the searches of the training text; Python does each in linear time."""

    class Counted(str):
        searches = 0

        def __contains__(self, stretch):
            Counted.searches += 1
            return super().__contains__(stretch)

    ticking = Song("tick", "", tuple(SongNote(k * 120, 60, 120) for k in range(3000)), 360_000)
    copies = Copies([*training_songs(), *[chance(s, 300, f"more{s}") for s in range(100, 200)], ticking])
    copies._text = Counted(copies._text)
    assert copies.longest(cut(ticking, 0, 500)) == (499, "tick")
    assert copies.longest(chance(5000, 500))[0] < 6
    assert Counted.searches <= 2 * 2 * 499
    copies.fraction(chance(5001, 500))
    assert Counted.searches <= 5 * 499
