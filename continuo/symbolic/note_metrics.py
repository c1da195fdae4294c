"""What a song is like in figures, and whether it got stuck.

Sources: H.-W. Dong et al., "MusPy: A Toolkit for Symbolic Music Generation" (ISMIR 2020), section 5.3; S.-L. Wu and
Y.-H. Yang, "The Jazz Transformer on the Front Line" (ISMIR 2020), section 5. Percussion has no pitch: it counts for the
groove and for being stuck alone. What is undefined, for want of notes or bars, is nan.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from continuo.symbolic.song import QUARTER, Song, pitch_name

POSITIONS = 12
"""Places of a quarter note at which a note may begin: 16ths and triplets are told apart."""
MAJOR = (0, 2, 4, 5, 7, 9, 11)
FIFTHS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6)
"""Sharps of all major keys, flats below 0, the plainest first."""
RIFF = 4
"""Steps of a riff: it has one note more."""
STUCK_SHARE = 0.9
MIN_ONSETS = 4
"""Fewer onsets in the second half do not make it stuck."""


def pitch_class_entropy(song: Song) -> float:
    """Bits of the distribution of the notes' pitch classes: 0 for one pitch, log2(12) = 3.58 for all alike."""
    counts = _classes(song)
    shares = counts[counts > 0] / counts.sum() if counts.any() else np.array([np.nan])
    return abs(float(shares @ np.log2(shares)))


def best_scale(song: Song) -> tuple[int, float]:
    """The major scale with most notes in it: its tonic's pitch class (0 to 11, C is 0), and their share (0 to 1).

    A natural minor scale has the notes of the major scale three semitones higher. Of scales alike the one with fewer
    accidentals comes first.
    """
    counts = _classes(song)
    inside = {k * 7 % 12: counts[[(k * 7 + step) % 12 for step in MAJOR]].sum() for k in FIFTHS}
    tonic = max(inside, key=lambda pitch_class: inside[pitch_class])
    return tonic, float(inside[tonic] / counts.sum()) if counts.any() else math.nan


def scale_consistency(song: Song) -> float:
    """The largest share (0 to 1) of notes inside any major or natural minor scale."""
    return best_scale(song)[1]


def groove_consistency(song: Song, positions: int = POSITIONS) -> float:
    """1 - mean share of places at which neighbouring bars differ: onset against none, `positions` a quarter.

    Bars of unequal length are compared as far as the shorter one reaches; the last bar counts if the song fills it.
    The finer the places, the nearer to 1; published figures differ in that.
    """
    edges = song.bars()
    if not edges:
        return math.nan
    numerator, denominator = song.meter_at(edges[-1])
    if song.ticks - edges[-1] >= numerator * 4 * QUARTER // denominator:
        edges.append(song.ticks)
    step = QUARTER / positions
    bars = [np.zeros(math.ceil((end - start) / step), bool) for start, end in pairwise(edges)]
    for place in {t.onset + step / 2 for t in song.notes}:
        k = bisect_right(edges, place) - 1
        if k < len(bars):
            bars[k][int((place - edges[k]) / step)] = True
    differ = [np.mean(a[: len(b)] != b[: len(a)]) for a, b in pairwise(bars)]
    return 1 - float(np.mean(differ)) if differ else math.nan


class Counts(NamedTuple):
    """What `note_counts` counts.

    Attributes:
        pitches: how many notes of each MIDI number.
        mean_pitch: MIDI number.
        riff: steps of the top voice, `(semitones, onset to onset in 1/12 quarter)`; empty for want of notes.
        riff_count: how often it comes.
    """

    pitches: dict[int, int]
    mean_pitch: float
    riff: tuple[tuple[int, int], ...]
    riff_count: int


def note_counts(song: Song) -> Counts:
    """Notes of each pitch, and the most frequent riff of the top voice: `RIFF` steps, of equals the first heard."""
    pitches = Counter(t.pitch for t in song.notes if not t.is_drum)
    voice = top_voice(song)
    step = QUARTER // POSITIONS
    steps = [(q - p, (b - a + step // 2) // step) for (a, p), (b, q) in pairwise(voice)]
    riffs = Counter(tuple(steps[k : k + RIFF]) for k in range(len(steps) - RIFF + 1))
    riff, often = riffs.most_common(1)[0] if riffs else ((), 0)
    mean = sum(p * n for p, n in pitches.items()) / pitches.total() if pitches else math.nan
    return Counts(dict(sorted(pitches.items())), mean, riff, often)


def top_voice(song: Song) -> list[tuple[int, int]]:
    """The highest notes, `(onset in ticks, MIDI number)`: of each onset the highest, unless a higher one is held."""
    voice: list[tuple[int, int]] = []
    end = 0
    for note in sorted((t for t in song.notes if not t.is_drum), key=lambda t: (t.onset, -t.pitch, -t.length)):
        if not voice or note.onset >= end or (note.pitch >= voice[-1][1] and note.onset > voice[-1][0]):
            voice.append((note.onset, note.pitch))
            end = note.end
    return voice


def stuck(song: Song) -> str | None:
    """A sentence if the song is silence or one repeated note or chord, as a whole or in its second half; else None.

    Repeated means: more than `STUCK_SHARE` of the onsets begin the same pitches.
    """
    if not song.notes:
        return "It is silent: there is no note in it."
    half = song.ticks // 2
    if all(t.end <= half for t in song.notes):
        return "Its second half is silent."
    together: dict[int, set[tuple[bool, int]]] = defaultdict(set)
    for note in song.notes:
        together[note.onset].add((note.is_drum, note.pitch))
    onsets = {onset: frozenset(group) for onset, group in together.items()}
    second = [group for onset, group in onsets.items() if onset >= half]
    for groups, where, least in ((list(onsets.values()), "It", 1), (second, "Its second half", MIN_ONSETS)):
        if len(groups) >= least:
            group, often = Counter(groups).most_common(1)[0]
            if often > STUCK_SHARE * len(groups):
                names = " ".join(f"drum{p}" if is_drum else pitch_name(p) for is_drum, p in sorted(group))
                kind = "note" if len(group) == 1 else "chord"
                return f"{where} is one {kind} again and again: {often} of {len(groups)} onsets are {names}."
    return None


def _classes(song: Song) -> np.ndarray:
    """Notes of each pitch class, `(12,)`."""
    return np.bincount([t.pitch % 12 for t in song.notes if not t.is_drum], minlength=12)
