"""Songs as note, chord, rest and tempo events: which pitches begin together, how long they last, when the next begins.

A step is one event of three numbers, as compound words are (Hsiao et al., Compound Word Transformer, AAAI 2021); a
chord is a class of its own (as in S. Skuli, How to Generate Music using a LSTM Neural Network in Keras, 2017).

Conventions. Times are steps of a grid, `steps_per_quarter` to a quarter note; onsets and ends are rounded to it, halves
up, and a note lasts a step at least. Events that begin together stand in this order: the tempo, the longest first, of
equal length the lowest first. Lost are drums, velocities, all programs but one, the rest of a note longer than 16
quarters, of notes of equal pitch and onset all but the longest, of a song's tempos of one class all but the first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar, NamedTuple

import numpy as np

from continuo.symbolic.song import QUARTER, Song, SongNote

KIND = "chords"
REACH_QUARTERS = 16
"""Longest length and gap of one event: longer notes are cut, longer gaps go on with rests."""
TEMPOS_QPM = [20.0 * 16 ** (k / 31) for k in range(32)]
"""Middles of the classes of tempo, quarter notes per minute: 20 to 320, each 9.4 % faster than the one before."""
REST, FIRST_TEMPO, FIRST_NOTE, FIRST_CHORD = 0, 1, 33, 161
"""Classes: the rest, the tempos, the single notes 0 to 127, then the chords by how often they were met."""


class _Grid(NamedTuple):
    """What the events tell, in steps."""

    notes: dict[tuple[int, int], int]  # (onset, pitch) to length, at least 1
    tempos: dict[int, int]  # where the tempo changes: step to class less FIRST_TEMPO, in order of time
    end: int  # length of the song, not before the last note ends


@dataclass(frozen=True)
class ChordCodec:
    """Writes songs as events and reads them back: `decode(encode(song), like=song)` is `quantised(song)`.

    An event is `(class, length, gap)`. Length: steps that a note or chord sounds, 0 of others. Gap: steps until the
    next event begins, 0 where it begins together with this one and after a tempo; the last one reaches to the end of
    the song, so that an event appended begins exactly there. A tempo stands at the beginning and wherever its class
    changes. A rest takes up silence at the beginning, time after a tempo at which nothing else begins, and what is left
    of gaps longer than 16 quarters. A chord without a class is written as parts that have one, single notes at the
    least, equally long and begun together, so that no music is out of vocabulary.

    Attributes:
        steps_per_quarter: of the grid, a divisor of 480; 12 holds sixteenths and triplets.
        chords: pitches of every chord with a class, ascending.
        program, meter, qpm: General MIDI program, time signature and tempo of songs decoded without `like`.

    >>> codec = ChordCodec(chords=((60, 64),))
    >>> codec.encode(Song("s", "s", (SongNote(0, 60, 480), SongNote(0, 64, 480), SongNote(480, 67, 240)), 960)).tolist()
    [[21, 0, 0], [161, 12, 12], [100, 6, 12]]
    """

    steps_per_quarter: int = 12
    chords: tuple[tuple[int, ...], ...] = ()
    program: int = 0
    meter: tuple[int, int] = (4, 4)
    qpm: float = 120.0
    follows: ClassVar[None] = None  # no grammar between events: any may follow any other,
    opens: ClassVar[None] = None  # and open a song

    def __post_init__(self) -> None:
        if self.steps_per_quarter < 1 or QUARTER % self.steps_per_quarter:
            raise ValueError(f"steps_per_quarter {self.steps_per_quarter} does not divide {QUARTER} ticks of a quarter")
        for chord in self.chords:
            if len(chord) < 2 or sorted(set(chord)) != list(chord) or chord[0] < 0 or chord[-1] > 127:
                raise ValueError(f"a chord is two or more ascending pitches from 0 to 127, not {chord}")
        if len(set(self.chords)) < len(self.chords):
            raise ValueError("a chord has two classes")
        if not (0 <= self.program <= 127 and min(self.meter) > 0 and 0 < self.qpm < math.inf):
            raise ValueError(f"impossible program {self.program}, meter {self.meter} or tempo {self.qpm} qpm")

    @classmethod
    def fit(cls, songs: Sequence[Song], *, steps_per_quarter: int = 12, classes: int = 1000) -> ChordCodec:
        """The codec of a corpus: its most frequent chords, seen twice at least, and its usual sound, meter and tempo.

        Args:
            songs: those without a pitched note are passed over.
            steps_per_quarter: of the grid, a divisor of 480.
            classes: most of them, rest, tempos and single notes (161) included.

        Raises:
            ValueError: no pitched note, or a value is out of its range.
        """
        if classes < FIRST_CHORD:
            raise ValueError(f"{classes} classes are too few: rest, tempos and single notes alone take {FIRST_CHORD}")
        pitched = [song for song in songs if any(not note.is_drum for note in song.notes)]
        if not pitched:
            raise ValueError("there is no pitched note in the corpus")
        bare = cls(steps_per_quarter)
        seen = Counter(pitches for song in pitched for _, _, pitches in _groups(bare._grid(song)))
        frequent = sorted((-count, pitches) for pitches, count in seen.items() if count > 1 and len(pitches) > 1)
        return cls(
            steps_per_quarter,
            tuple(pitches for _, pitches in frequent[: classes - FIRST_CHORD]),
            Counter(song.program() for song in pitched).most_common(1)[0][0],
            Counter(song.meter_at(song.ticks // 2) for song in pitched).most_common(1)[0][0],  # no upbeat's own
            float(median(song.qpm_at(0) for song in pitched)),
        )

    @cached_property
    def vocabulary(self) -> tuple[int, ...]:
        """Sizes of the three levels: classes, lengths, gaps."""
        return FIRST_CHORD + len(self.chords), self._reach + 1, self._reach + 1

    def encode(self, song: Song) -> np.ndarray:
        """The song's events, `(T, 3)` int64, T at least 1; without pitched notes tempos and rests alone."""
        grid = self._grid(song)
        begun: dict[int, list[list[int]]] = {at: [[FIRST_TEMPO + k, 0, 0]] for at, k in grid.tempos.items()}
        for onset, length, pitches in _groups(grid):
            begun.setdefault(onset, []).extend([part, length, 0] for part in self._parts(pitches))
        rows: list[list[int]] = []
        for at, until in pairwise([*sorted(begun), grid.end]):
            rows += begun[at]
            gap = until - at
            if gap and rows[-1][0] < FIRST_NOTE:
                rows.append([REST, 0, 0])
            rows[-1][2] = min(gap, self._reach)
            rows += ([REST, 0, min(gap - k, self._reach)] for k in range(self._reach, gap, self._reach))
        return np.array(rows, dtype=np.int64)  # (T, 3)

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """The song that events tell.

        Args:
            codes: `(T, 3)`, any sequence of integers below `vocabulary`: a note of length 0 lasts one step, the length
                of rests and tempos means nothing, their gap counts.
            like: gives the name, meters and program, the tempo until the first tempo event, and the exact value of a
                class of tempo that it has itself. Without it the codec's own do, named after what they are.

        Raises:
            ValueError: codes of another shape, or beyond the vocabulary.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != 3:
            raise ValueError(f"codes have shape {codes.shape}, not (T, 3)")
        if ((codes < 0) | (codes >= np.array(self.vocabulary))).any():
            raise ValueError(f"codes beyond the vocabulary {self.vocabulary}: were they made by another codec?")
        notes, tempos, at = dict[tuple[int, int], int](), dict[int, int](), 0
        for event, length, gap in codes.tolist():
            if FIRST_TEMPO <= event < FIRST_NOTE:
                tempos[at] = event - FIRST_TEMPO
            for pitch in self._pitches[event]:
                notes[at, pitch] = max(notes.get((at, pitch), 1), length)
            at += gap
        usual = Song(KIND, KIND, (SongNote(0, 60, 1, program=self.program),), 1, ((0, self.qpm),), ((0, *self.meter),))
        like = like or usual
        return self._song(_closed(notes, tempos and {0: _tempo(like.qpm_at(0))} | tempos, at), like)

    def round_trip(self, song: Song) -> Song:
        """The song as this codec keeps it, found without any codes."""
        return self._song(self._grid(song), song)

    def to_dict(self) -> dict[str, Any]:
        """The codec in plain JSON types; `from_dict` gives it back."""
        usual = {"program": self.program, "meter": list(self.meter), "qpm": self.qpm}
        return {"kind": KIND, "steps_per_quarter": self.steps_per_quarter, "chords": [*map(list, self.chords)], **usual}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChordCodec:
        """The codec that `to_dict` described.

        Raises:
            ValueError: the dictionary is of another kind.
        """
        try:
            if data["kind"] != KIND:
                raise ValueError(f"its kind is {data['kind']!r}")
            chords, (numerator, denominator) = tuple(map(tuple, data["chords"])), data["meter"]
            return cls(data["steps_per_quarter"], chords, data["program"], (numerator, denominator), data["qpm"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a chord codec ({error})") from None

    @cached_property
    def _reach(self) -> int:
        return REACH_QUARTERS * self.steps_per_quarter

    @cached_property
    def _pitches(self) -> list[tuple[int, ...]]:
        """Of every class, ascending; none of the rest and the tempos."""
        return [*[()] * FIRST_NOTE, *((pitch,) for pitch in range(128)), *self.chords]

    @cached_property
    def _classes(self) -> dict[tuple[int, ...], int]:
        """From pitches to their class, the largest chords first, then the most frequent."""
        known = list(enumerate(self._pitches))[FIRST_NOTE:]
        return {pitches: k for k, pitches in sorted(known, key=lambda pair: -len(pair[1]))}

    def _parts(self, pitches: tuple[int, ...]) -> list[int]:
        """Classes that together are these pitches: their own, else greedily the largest known parts."""
        if pitches in self._classes:
            return [self._classes[pitches]]
        left, parts = set(pitches), list[tuple[int, ...]]()
        for known in self._classes:
            if left.issuperset(known):
                left.difference_update(known)
                parts.append(known)
        return [self._classes[part] for part in sorted(parts)]

    def _grid(self, song: Song) -> _Grid:
        """A song in steps; what gets lost is left out here."""
        unit = QUARTER // self.steps_per_quarter
        notes = dict[tuple[int, int], int]()
        for note in song.notes:
            if not note.is_drum:
                key = _step(note.onset, unit), note.pitch
                notes[key] = max(notes.get(key, 1), min(_step(note.end, unit) - key[0], self._reach))
        changes = {_step(at, unit): _tempo(qpm) for at, qpm in song.tempos}
        return _closed(notes, {0: _tempo(song.qpm_at(0))} | changes, _step(song.ticks, unit))

    def _song(self, grid: _Grid, like: Song) -> Song:
        """A grid as a song."""
        unit, program = QUARTER // self.steps_per_quarter, like.program()
        notes = tuple(SongNote(at * unit, p, n * unit, program=program) for (at, p), n in sorted(grid.notes.items()))
        exact = {_tempo(qpm): qpm for _, qpm in reversed(like.tempos)}
        tempos = tuple((at * unit, exact.get(k, TEMPOS_QPM[k])) for at, k in grid.tempos.items()) or like.tempos
        return Song(like.id, like.source, notes, grid.end * unit, tempos, like.meters, has_ending=like.has_ending)


def _closed(notes: dict[tuple[int, int], int], tempos: Mapping[int, int], end: int) -> _Grid:
    """Notes and tempos until `end`, or where the last note ends; tempos that change nothing left out."""
    end = max([end, *(onset + length for (onset, _), length in notes.items())])
    inside = [(-1, -1), *sorted((at, tempo) for at, tempo in tempos.items() if at < max(end, 1))]
    return _Grid(notes, {at: tempo for (_, before), (at, tempo) in pairwise(inside) if tempo != before}, end)


def _groups(grid: _Grid) -> list[tuple[int, int, tuple[int, ...]]]:
    """Onset, length and ascending pitches of what begins together and lasts equally long, in order of the events."""
    found: dict[tuple[int, int], list[int]] = {}
    for (onset, pitch), length in sorted(grid.notes.items()):
        found.setdefault((onset, -length), []).append(pitch)
    return [(onset, -less, tuple(pitches)) for (onset, less), pitches in sorted(found.items())]


def _tempo(qpm: float) -> int:
    """The class of a tempo, less FIRST_TEMPO: the nearest by ratio."""
    return min(range(len(TEMPOS_QPM)), key=lambda k: abs(math.log(qpm / TEMPOS_QPM[k])))


def _step(tick: int, unit: int) -> int:
    """Ticks to steps of `unit` ticks, halves up."""
    return (2 * tick + unit) // (2 * unit)
