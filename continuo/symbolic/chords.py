"""Encode songs as events of notes, chords, rests and tempos.

A step is one event of three codes, as compound words are (Hsiao et al., Compound Word Transformer, AAAI 2021); a
frequent chord is a class of its own (S. Skuli, How to Generate Music using a LSTM Neural Network in Keras, 2017).

Onsets and ends are rounded to the grid, halves up, and a note lasts at least one step. Events of one onset are ordered:
the tempo, then the longest notes, then the lowest. Codes do not keep drums, velocities, more than one program, lengths
beyond 16 quarters, more than one note of equal pitch and onset, or more than one tempo within a tempo class.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from continuo.model.metadata import Json
from continuo.symbolic.codec import GridCodec, pitched_songs
from continuo.symbolic.grid import effective_changes
from continuo.symbolic.song import Song, SongNote

KIND = "chords"
MAX_QUARTERS = 16  # of one length or gap: longer notes are cut, longer gaps continue with rests
TEMPOS_QPM = [20.0 * 16 ** (k / 31) for k in range(32)]  # centers of the tempo classes: 20 to 320, 9.4 % apart
REST, FIRST_TEMPO, FIRST_NOTE, FIRST_CHORD = 0, 1, 33, 161  # classes; from FIRST_CHORD on the most frequent chord first


class _Steps(NamedTuple):
    """A song in grid steps, with only what events can say."""

    notes: dict[tuple[int, int], int]  # (onset, pitch) to length, at least 1
    tempos: list[tuple[int, int]]  # step and tempo class from there on
    end: int  # length of the song, not before the end of a note


@dataclass(frozen=True, kw_only=True)
class ChordCodec(GridCodec):
    """Converts songs to events and back.

    An event is `(class, length, gap)`. The length is the number of steps that a note or chord sounds, 0 for others. The
    gap is the number of steps to the next event, 0 after a tempo and between events of one onset. The last gap reaches
    to the end of the song, so that an appended event begins exactly there. A tempo event stands at the beginning and
    where the tempo class changes. Rests fill silence at the beginning and after tempos, and gaps beyond 16 quarters. A
    chord without a class is written as parts that have one, single notes if need be, so nothing is out of vocabulary.

    >>> codec = ChordCodec(chords=((60, 64),))
    >>> notes = SongNote(0, 60, 480), SongNote(0, 64, 480), SongNote(480, 67, 240)
    >>> codec.encode(Song("s", "s", notes, 960)).tolist()
    [[21, 0, 0], [161, 12, 12], [100, 6, 12]]
    """

    steps_per_quarter: int = 12  # holds sixteenths and triplets
    chords: tuple[tuple[int, ...], ...] = ()  # the ascending pitches of every chord that has a class

    def __post_init__(self) -> None:
        super().__post_init__()
        for chord in self.chords:
            if len(chord) < 2 or sorted(set(chord)) != list(chord) or chord[0] < 0 or chord[-1] > 127:
                raise ValueError(f"a chord is two or more ascending pitches from 0 to 127, not {chord}")
        if len(set(self.chords)) < len(self.chords):
            raise ValueError("a chord has two classes")

    @classmethod
    def fit(cls, songs: Sequence[Song], *, steps_per_quarter: int = 12, classes: int = 1000) -> ChordCodec:
        """Return the codec for a corpus, with classes for its most frequent chords that occur at least twice.

        Songs without pitched notes are ignored; rest, tempos and single notes take 161 of the `classes`. Raise
        ValueError if there is no pitched note, or an argument is out of range.
        """
        if classes < FIRST_CHORD:
            raise ValueError(f"{classes} classes are too few: rest, tempos and single notes alone take {FIRST_CHORD}")
        songs = pitched_songs(songs)
        codec = cls(steps_per_quarter=steps_per_quarter).with_usual_facts(songs)
        counts = Counter(pitches for song in songs for _, _, pitches in _groups(codec._steps(song)))
        frequent = sorted((-count, pitches) for pitches, count in counts.items() if count > 1 and len(pitches) > 1)
        return replace(codec, chords=tuple(pitches for _, pitches in frequent[: classes - FIRST_CHORD]))

    @cached_property
    def vocabulary(self) -> tuple[int, ...]:
        """The numbers of classes, lengths and gaps."""
        return FIRST_CHORD + len(self.chords), self._max_steps + 1, self._max_steps + 1

    def encode(self, song: Song) -> np.ndarray:
        """Return the events of a song, `(T, 3)` int64, T at least 1; without pitched notes tempos and rests."""
        steps = self._steps(song)
        events: dict[int, list[list[int]]] = {at: [[FIRST_TEMPO + k, 0, 0]] for at, k in steps.tempos}
        for onset, length, pitches in _groups(steps):
            events.setdefault(onset, []).extend([part, length, 0] for part in self._parts(pitches))
        rows: list[list[int]] = []
        for at, following in pairwise([*sorted(events), steps.end]):
            rows += events[at]
            gap = following - at
            if gap and rows[-1][0] < FIRST_NOTE:
                rows.append([REST, 0, 0])
            rows[-1][2] = min(gap, self._max_steps)
            rows += ([REST, 0, min(gap - k, self._max_steps)] for k in range(self._max_steps, gap, self._max_steps))
        return np.array(rows, dtype=np.int64)  # (T, 3)

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """Return the song of events.

        Args:
            codes: `(T, 3)`, any integers of the vocabulary, or else ValueError. A note of length 0 lasts one step; the
                lengths of rests and tempos are ignored.
            like: lends its id, meters and program, its tempo up to the first tempo event, and its exact tempo for each
                tempo class that it uses itself. Without it the song has the usual facts of the corpus.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != 3:
            raise ValueError(f"codes have shape {codes.shape}, not (T, 3)")
        if ((codes < 0) | (codes >= np.array(self.vocabulary))).any():
            raise ValueError(f"codes beyond the vocabulary {self.vocabulary}: were they made by another codec?")
        notes, tempos, at = dict[tuple[int, int], int](), list[tuple[int, int]](), 0
        for event, length, gap in codes.tolist():
            if FIRST_TEMPO <= event < FIRST_NOTE:
                tempos.append((at, event - FIRST_TEMPO))
            for pitch in self._pitches[event]:
                notes[at, pitch] = max(notes.get((at, pitch), 1), length)
            at += gap
        like = like or replace(self.usual_song, id=KIND, source=KIND)
        return self._song(_bounded(notes, tempos and [(0, _tempo_class(like.qpm_at(0))), *tempos], at), like)

    def round_trip(self, song: Song) -> Song:
        return self._song(self._steps(song), song)

    def to_dict(self) -> Json:
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Json) -> ChordCodec:
        try:
            if data["kind"] != KIND:
                raise ValueError(f"its kind is {data['kind']!r}")
            facts = {name: value for name, value in data.items() if name not in ("kind", "chords", "meter")}
            numerator, denominator = data["meter"]
            return cls(chords=tuple(map(tuple, data["chords"])), meter=(numerator, denominator), **facts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a chord codec ({error})") from None

    @property
    def _max_steps(self) -> int:
        return MAX_QUARTERS * self.steps_per_quarter

    @cached_property
    def _pitches(self) -> list[tuple[int, ...]]:
        """The ascending pitches of every class; none for the rest and the tempos."""
        return [*[()] * FIRST_NOTE, *((pitch,) for pitch in range(128)), *self.chords]

    @cached_property
    def _classes(self) -> dict[tuple[int, ...], int]:
        """The class of pitches, the largest chords first, then the most frequent ones."""
        known = list(enumerate(self._pitches))[FIRST_NOTE:]
        return {pitches: k for k, pitches in sorted(known, key=lambda pair: -len(pair[1]))}

    def _parts(self, pitches: tuple[int, ...]) -> list[int]:
        """Return classes that together have these pitches: one if possible, else greedily the largest parts."""
        if pitches in self._classes:
            return [self._classes[pitches]]
        missing, parts = set(pitches), list[tuple[int, ...]]()
        for known in self._classes:
            if missing.issuperset(known):
                missing -= set(known)
                parts.append(known)
        return [self._classes[part] for part in sorted(parts)]

    def _steps(self, song: Song) -> _Steps:
        """Round a song to the grid and drop what events cannot say."""
        notes = dict[tuple[int, int], int]()
        for note in song.notes:
            if not note.is_drum:
                key = self.nearest_step(note.onset), note.pitch
                notes[key] = max(notes.get(key, 1), min(self.nearest_step(note.end) - key[0], self._max_steps))
        changes = [(0, song.qpm_at(0)), *((self.nearest_step(at), qpm) for at, qpm in song.tempos)]
        return _bounded(notes, [(at, _tempo_class(qpm)) for at, qpm in changes], self.nearest_step(song.ticks))

    def _song(self, steps: _Steps, like: Song) -> Song:
        """Return a song in grid steps as a song in ticks, with the facts of `like`."""
        step, program = self.step, like.program()
        notes = [SongNote(at * step, p, n * step, program=program) for (at, p), n in sorted(steps.notes.items())]
        exact = {_tempo_class(qpm): qpm for _, qpm in reversed(like.tempos)}
        tempos = tuple((at * step, exact.get(k, TEMPOS_QPM[k])) for at, k in steps.tempos) or like.tempos
        ticks = steps.end * step
        return Song(like.id, like.source, tuple(notes), ticks, tempos, like.meters, has_ending=like.has_ending)


def _bounded(notes: dict[tuple[int, int], int], tempos: list[tuple[int, int]], end: int) -> _Steps:
    """Return notes and effective tempos up to `end`, or to the end of the last note."""
    end = max([end, *(onset + length for (onset, _), length in notes.items())])
    return _Steps(notes, effective_changes(tempos, max(end, 1)), end)


def _groups(steps: _Steps) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return onset, length and ascending pitches of notes that begin and end together, in the order of the events."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for (onset, pitch), length in sorted(steps.notes.items()):
        found[onset, -length].append(pitch)
    return [(onset, -minus_length, tuple(pitches)) for (onset, minus_length), pitches in sorted(found.items())]


def _tempo_class(qpm: float) -> int:
    """Return the tempo class whose center is nearest by ratio."""
    return min(range(len(TEMPOS_QPM)), key=lambda k: abs(math.log(qpm / TEMPOS_QPM[k])))
