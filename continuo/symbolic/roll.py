"""Encode songs as piano rolls: the set of pitches that sound at each step of a time grid."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np

from continuo.symbolic.codec import GridCodec
from continuo.symbolic.song import Song, SongNote

STOP = 0
Span = tuple[int, int, int]
"""The pitch of a note, and the steps at which it begins and ends."""


@dataclass(frozen=True, kw_only=True)
class RollCodec(GridCodec):
    """Converts songs to piano rolls and back.

    A step is the set of pitches that sound in it, the lowest first, then a stop; silence is a stop alone. Every set has
    exactly one form, so that no combination is unknown. With `strikes` each pitch has two codes, held from the step
    before and attacked in this step; without, touching notes of one pitch become one. Times are rounded to the grid,
    halves up, and a note lasts at least one step. A pitch out of range moves to the nearest octave in range. Of more
    pitches than levels the highest and the lowest ones are kept. Codes hold no velocities, programs, drums or tempos.

    Attributes:
        strikes: whether re-attacks differ from held notes.
        lowest, highest: range of the pitches, MIDI numbers.
        levels: the largest number of pitches in a step, L.
    """

    strikes: bool
    lowest: int
    highest: int
    levels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.lowest <= self.highest <= 127 and 1 <= self.levels <= 128):
            raise ValueError(f"impossible pitches {self.lowest} to {self.highest} at {self.levels} levels")

    @classmethod
    def fit(
        cls, songs: Sequence[Song], *, steps_per_quarter: int = 4, strikes: bool = True, most: int = 32
    ) -> RollCodec:
        """Return the codec for a corpus, with its range of pitches and its polyphony, `most` pitches at the most.

        Raises:
            ValueError: there is no pitched note, or the grid does not divide a quarter note.
        """
        songs = cls.pitched(songs)
        pitches = [note.pitch for song in songs for note in song.notes if not note.is_drum]
        codec = cls(
            steps_per_quarter=steps_per_quarter,
            strikes=strikes,
            lowest=min(pitches),
            highest=max(pitches),
            levels=1,
            **cls.usual(songs),
        )
        polyphony = max(len(notes) for song in songs for notes in codec._sounding(song))
        return replace(codec, levels=min(polyphony, most))

    @cached_property
    def vocabulary(self) -> tuple[int, ...]:
        """The number of codes V, for each of the L levels."""
        return (len(self.ranks),) * self.levels

    @cached_property
    def ranks(self) -> np.ndarray:
        """The rank of each code, `(V,)`: codes of a step ascend strictly, up to the stop."""
        pitches = self.highest - self.lowest + 1
        return np.concatenate([[pitches], np.repeat(np.arange(pitches), self._codes_per_pitch)])

    @cached_property
    def _codes_per_pitch(self) -> int:
        return 2 if self.strikes else 1

    def out_of_range(self, song: Song) -> int:
        return sum(not n.is_drum and not self.lowest <= n.pitch <= self.highest for n in song.notes)

    def _in_range(self, pitch: int) -> int:
        """Return the pitch, or its nearest octave in range; the edge of a range that is narrower than an octave."""
        if pitch < self.lowest:
            pitch += 12 * math.ceil((self.lowest - pitch) / 12)
        elif pitch > self.highest:
            pitch -= 12 * math.ceil((pitch - self.highest) / 12)
        return min(max(pitch, self.lowest), self.highest)

    def _spans(self, song: Song) -> list[Span]:
        """Round notes to the grid; the next onset of a pitch ends the note before."""
        ends: dict[int, dict[int, int]] = defaultdict(dict)  # by pitch and onset
        for note in song.notes:
            if not note.is_drum:
                onset = self.nearest_step(note.onset)
                end = max(self.nearest_step(note.end), onset + 1)
                notes = ends[self._in_range(note.pitch)]
                notes[onset] = max(notes.get(onset, 0), end)
        spans = []
        for pitch, notes in sorted(ends.items()):
            onsets = sorted(notes)
            for onset, following in zip(onsets, [*onsets[1:], notes[onsets[-1]]], strict=True):
                spans.append((pitch, onset, min(notes[onset], following)))
        return spans

    def _sounding(self, song: Song) -> list[list[tuple[int, bool]]]:
        """Return for each step the ascending pitches that sound, and whether they begin there."""
        spans = self._spans(song)
        steps = max([math.ceil(song.ticks / self.step), *(end for _, _, end in spans)])
        sounding: list[list[tuple[int, bool]]] = [[] for _ in range(steps)]
        for pitch, onset, end in spans:
            for step in range(onset, end):
                sounding[step].append((pitch, step == onset))
        return sounding

    def encode(self, song: Song) -> np.ndarray:
        """Return the codes `(T, L)` int64 of a song, its length rounded up to the grid."""
        sounding = self._sounding(song)
        codes = np.full((len(sounding), self.levels), STOP, dtype=np.int64)
        low = self.levels // 2
        for row, notes in zip(codes, sounding, strict=True):
            if len(notes) > self.levels:
                notes = notes[:low] + notes[len(notes) - (self.levels - low) :]
            for level, (pitch, is_onset) in enumerate(notes):
                row[level] = 1 + self._codes_per_pitch * (pitch - self.lowest) + (is_onset and self.strikes)
        return codes

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """Return the song of codes `(T, L)`, with tempo, meters and program of `like`, or else the usual ones.

        A pitch that is held although it did not sound begins; codes after a stop are ignored.
        """
        notes: list[SongNote] = []
        onsets: dict[int, int] = {}  # of the notes that sound
        program = like.program() if like else self.program
        for step, row in enumerate([*codes, []]):
            sounding = dict(self._pitch_and_onset(row))
            for pitch in [pitch for pitch in onsets if sounding.get(pitch, True)]:
                onset = onsets.pop(pitch)
                notes.append(SongNote(onset * self.step, pitch, (step - onset) * self.step, program=program))
            for pitch in sounding:
                onsets.setdefault(pitch, step)
        tempos = like.tempos if like else ((0, self.qpm),)
        meters = like.meters if like else ((0, *self.meter),)
        return Song("roll", "roll", tuple(sorted(notes)), len(codes) * self.step, tempos, meters)

    def _pitch_and_onset(self, row: Iterable[int]) -> Iterable[tuple[int, bool]]:
        """Yield the pitches of a step, and whether they begin in it, up to the stop."""
        for code in takewhile(lambda code: code != STOP, row):
            place, is_onset = divmod(int(code) - 1, self._codes_per_pitch)
            yield self.lowest + place, bool(is_onset)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RollCodec:
        try:
            return cls(**{**data, "meter": tuple(data["meter"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a roll codec ({error})") from None
