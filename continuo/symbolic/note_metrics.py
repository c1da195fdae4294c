"""Measure songs: pitches, scale, groove and riffs, and whether a song is stuck on one note or chord.

Sources: H.-W. Dong et al., "MusPy: A Toolkit for Symbolic Music Generation" (ISMIR 2020), section 5.3; S.-L. Wu and
Y.-H. Yang, "The Jazz Transformer on the Front Line" (ISMIR 2020), section 5. Percussion has no pitch, so it counts only
for groove and for being stuck. Figures that are undefined for lack of notes or bars are nan.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from continuo.symbolic.grid import nearest_step
from continuo.symbolic.song import QUARTER, Song, pitch_name

POSITIONS = 12  # places of a quarter note where a note may begin; tells 16ths from triplets
RIFF_STEPS = 4  # steps of a riff, which has one note more
STUCK_FRACTION = 0.9  # of the onsets; a song with more equal ones is stuck
MIN_ONSETS = 4  # of a second half that can be stuck


def pitch_class_entropy(song: Song) -> float:
    """Return the entropy of the pitch classes in bits: 0 for one class, log2(12) = 3.58 for twelve equal ones."""
    counts = song.pitch_classes()
    fractions = counts[counts > 0] / counts.sum() if counts.any() else np.array([np.nan])
    return abs(float(fractions @ np.log2(fractions)))


def scale_consistency(song: Song) -> float:
    """Return the largest fraction (0 to 1) of the notes that lie in any major or natural minor scale."""
    return song.best_scale()[1]


def groove_consistency(song: Song, positions: int = POSITIONS) -> float:
    """Return 1 minus the mean fraction of places where neighboring bars differ in having an onset.

    Bars of unequal length are compared up to the end of the shorter one. The last bar counts if the song fills it.
    The more `positions` in a quarter note, the nearer the result is to 1; published figures differ in it.
    """
    edges = song.bars()
    if not edges:
        return math.nan
    numerator, denominator = song.meter_at(edges[-1])
    if song.ticks - edges[-1] >= numerator * 4 * QUARTER // denominator:
        edges.append(song.ticks)
    step = QUARTER / positions
    bars = [np.zeros(math.ceil((end - start) / step), bool) for start, end in pairwise(edges)]
    for place in {note.onset + step / 2 for note in song.notes}:
        k = bisect_right(edges, place) - 1
        if k < len(bars):
            bars[k][int((place - edges[k]) / step)] = True
    differ = [np.mean(a[: len(b)] != b[: len(a)]) for a, b in pairwise(bars)]
    return 1 - float(np.mean(differ)) if differ else math.nan


class NoteCounts(NamedTuple):
    """Counts of the notes of a song."""

    pitches: dict[int, int]  # number of notes of each MIDI number
    mean_pitch: float
    riff: tuple[tuple[int, int], ...]  # most frequent steps of the top voice: semitones, and time in 1/12 quarters
    riff_count: int


def note_counts(song: Song) -> NoteCounts:
    """Count the notes of each pitch, and find the most frequent riff of the top voice, the first one of several."""
    pitches = Counter(note.pitch for note in song.notes if not note.is_drum)
    steps = [(q - p, nearest_step(b - a, QUARTER // POSITIONS)) for (a, p), (b, q) in pairwise(top_voice(song))]
    riffs = Counter(tuple(steps[k : k + RIFF_STEPS]) for k in range(len(steps) - RIFF_STEPS + 1))
    riff, count = riffs.most_common(1)[0] if riffs else ((), 0)
    mean = sum(pitch * n for pitch, n in pitches.items()) / pitches.total() if pitches else math.nan
    return NoteCounts(dict(sorted(pitches.items())), mean, riff, count)


def top_voice(song: Song) -> list[tuple[int, int]]:
    """Return `(tick, MIDI number)` of the highest note of each onset, except below a higher note that is held."""
    voice: list[tuple[int, int]] = []
    end = 0
    for note in sorted((n for n in song.notes if not n.is_drum), key=lambda n: (n.onset, -n.pitch, -n.length)):
        if not voice or note.onset >= end or (note.pitch >= voice[-1][1] and note.onset > voice[-1][0]):
            voice.append((note.onset, note.pitch))
            end = note.end
    return voice


def stuck(song: Song) -> str | None:
    """Return a sentence if a song, or its second half, is silent or repeats one note or chord, or else None.

    It repeats if more than `STUCK_FRACTION` of the onsets have the same pitches.
    """
    if not song.notes:
        return "It is silent: there is no note in it."
    half = song.ticks // 2
    if all(note.end <= half for note in song.notes):
        return "Its second half is silent."
    onsets: dict[int, set[tuple[bool, int]]] = defaultdict(set)
    for note in song.notes:
        onsets[note.onset].add((note.is_drum, note.pitch))
    chords = [(onset, frozenset(pitches)) for onset, pitches in onsets.items()]
    for where, start, min_onsets in (("It", 0, 1), ("Its second half", half, MIN_ONSETS)):
        counts = Counter(pitches for onset, pitches in chords if onset >= start)
        if counts.total() >= min_onsets:
            pitches, count = counts.most_common(1)[0]
            if count > STUCK_FRACTION * counts.total():
                names = " ".join(f"drum{p}" if is_drum else pitch_name(p) for is_drum, p in sorted(pitches))
                kind = "note" if len(pitches) == 1 else "chord"
                return f"{where} is one {kind} again and again: {count} of {counts.total()} onsets are {names}."
    return None
