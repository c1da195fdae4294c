"""The codec between a song and a piano roll: what sounds at each step of a time grid, as levels of codes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from continuo.symbolic.song import DEFAULT_METER, QUARTER, Song, SongNote

STOP = 0


class RollCodec:
    """A step is the set of pitches that sound in it, lowest first, then a stop; silence is a stop alone.

    A combination of pitches is no class of its own, so that none is ever unknown. With `strikes` each pitch has two
    codes, held from the step before and struck in this one, so that a repeated note differs from a held one; without,
    notes of one pitch that touch are one note. Times are rounded to the grid, half up; a note lasts a step at least.
    A pitch outside the range moves to the nearest octave inside it. Of more pitches than levels the highest and the
    lowest ones stay, the highest first. Velocities, programs, drums and tempo changes are not kept.

    Attributes:
        steps_per_quarter: of the grid.
        vocabulary: V for each of the L levels.
        ranks: `(V,)`; within a step they ascend strictly, up to the stop, which repeats to the last level.
    """

    follows: np.ndarray | None = None
    opens: np.ndarray | None = None

    def __init__(
        self,
        *,
        steps_per_quarter: int,
        strikes: bool,
        lowest: int,
        highest: int,
        levels: int,
        qpm: float,
        meter: tuple[int, int],
        program: int,
    ) -> None:
        if steps_per_quarter < 1 or QUARTER % steps_per_quarter:
            raise ValueError(f"steps_per_quarter {steps_per_quarter} does not divide {QUARTER} ticks of a quarter note")
        if not (0 <= lowest <= highest <= 127 and 1 <= levels <= 128):
            raise ValueError(f"impossible pitches {lowest} to {highest} at {levels} levels")
        if not (0 <= program <= 127 and len(meter) == 2 and min(meter) > 0 and 0 < qpm < math.inf):
            raise ValueError(f"impossible program {program}, meter {meter} or tempo {qpm} qpm")
        self.steps_per_quarter, self.strikes = steps_per_quarter, strikes
        self.lowest, self.highest, self.levels = lowest, highest, levels
        self.qpm, self.meter, self.program = qpm, meter, program
        pitches, codes = highest - lowest + 1, 2 if strikes else 1
        self.vocabulary = (1 + codes * pitches,) * levels
        self.ranks = np.concatenate([[pitches], np.repeat(np.arange(pitches), codes)])
        self.step = QUARTER // steps_per_quarter  # ticks

    @classmethod
    def fit(
        cls, songs: Sequence[Song], *, steps_per_quarter: int = 4, strikes: bool = True, most: int = 32
    ) -> RollCodec:
        """Range, number of levels (`most` at the most), and what a song is played with that no prompt begins.

        Raises:
            ValueError: the grid does not divide a quarter note, or there is no pitched note.
        """
        pitches = [note.pitch for song in songs for note in song.notes if not note.is_drum]
        if not pitches:
            raise ValueError("there is no pitched note in the corpus")
        codec = cls(
            steps_per_quarter=steps_per_quarter,
            strikes=strikes,
            lowest=min(pitches),
            highest=max(pitches),
            levels=1,
            qpm=float(np.median([song.qpm_at(0) for song in songs])),
            meter=Counter(song.meter_at(0) for song in songs).most_common(1)[0][0],
            program=Counter(song.program() for song in songs).most_common(1)[0][0],
        )
        heard = max(int(codec._polyphony(song).max(initial=0)) for song in songs)
        return cls.from_dict(codec.to_dict() | {"levels": min(heard, most)})

    def _polyphony(self, song: Song) -> np.ndarray:
        changes = np.zeros(self._length(song) + 1, dtype=np.int64)
        for _, onset, end in self._spans(song):
            changes[onset] += 1
            changes[end] -= 1
        return np.asarray(changes.cumsum())

    def _grid(self, tick: int) -> int:
        return (2 * tick + self.step) // (2 * self.step)

    def _length(self, song: Song) -> int:
        ends = [self._end(note) for note in song.notes if not note.is_drum]
        return max([math.ceil(song.ticks / self.step), *ends])

    def _end(self, note: SongNote) -> int:
        return max(self._grid(note.end), self._grid(note.onset) + 1)

    def _inside(self, pitch: int) -> int:
        """The pitch, or its nearest octave in the range; the range's edge where it is narrower than an octave."""
        if pitch < self.lowest:
            pitch += 12 * math.ceil((self.lowest - pitch) / 12)
        elif pitch > self.highest:
            pitch -= 12 * math.ceil((pitch - self.highest) / 12)
        return min(max(pitch, self.lowest), self.highest)

    def out_of_range(self, song: Song) -> int:
        """How many notes are out of range, and will be moved."""
        return sum(not t.is_drum and not self.lowest <= t.pitch <= self.highest for t in song.notes)

    def _spans(self, song: Song) -> list[tuple[int, int, int]]:
        """`(pitch, onset, end)` in steps, one at a time on each pitch: the next stroke ends the note before."""
        keys: dict[int, dict[int, int]] = {}  # pitch to onset to end
        for note in song.notes:
            if not note.is_drum:
                onset, strokes = self._grid(note.onset), keys.setdefault(self._inside(note.pitch), {})
                strokes[onset] = max(strokes.get(onset, 0), self._end(note))
        spans = []
        for pitch, strokes in keys.items():
            onsets = sorted(strokes)
            for onset, following in zip(onsets, [*onsets[1:], None], strict=True):
                end = strokes[onset]
                spans.append((pitch, onset, end if following is None else min(end, following)))
        return spans

    def encode(self, song: Song) -> np.ndarray:
        """Codes `(T, L)` int64, T the song's length on the grid, rounded up."""
        sounding: list[list[tuple[int, bool]]] = [[] for _ in range(self._length(song))]
        for pitch, onset, end in sorted(self._spans(song)):
            for step in range(onset, end):
                sounding[step].append((pitch, step == onset))
        codes = np.full((len(sounding), self.levels), STOP, dtype=np.int64)
        for row, notes in zip(codes, sounding, strict=True):
            for level, (pitch, struck) in enumerate(self._kept(notes)):
                row[level] = self._code(pitch, struck)
        return codes

    def _kept(self, notes: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
        if len(notes) <= self.levels:
            return notes
        low = self.levels // 2
        return notes[:low] + notes[len(notes) - (self.levels - low) :]

    def _code(self, pitch: int, struck: bool) -> int:
        place = pitch - self.lowest
        return 1 + (2 * place + struck if self.strikes else place)

    def _note(self, code: int) -> tuple[int, bool]:
        place, struck = divmod(code - 1, 2) if self.strikes else (code - 1, 0)
        return self.lowest + place, bool(struck)

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """The song of codes `(T, L)`, at the tempo, meters and program of `like`, else at the corpus's commonest.

        A pitch that is held although it did not sound is struck; codes after a stop are not heard.
        """
        spans: list[tuple[int, int, int]] = []
        open_since: dict[int, int] = {}
        for step, row in enumerate([*codes, []]):
            notes = dict(self._note(int(code)) for code in _before_stop(row))
            for pitch in [p for p in open_since if p not in notes or notes[p]]:
                spans.append((pitch, open_since.pop(pitch), step))
            open_since |= {pitch: step for pitch in notes if pitch not in open_since}
        return self._song(spans, len(codes), like)

    def round_trip(self, song: Song) -> Song:
        """What `decode(encode(song), like=song)` gives."""
        if self._polyphony(song).max(initial=0) > self.levels:  # which notes stay is decided step by step
            return self.decode(self.encode(song), song)
        spans = sorted(self._spans(song))
        if not self.strikes:
            joined: list[tuple[int, int, int]] = []
            for pitch, onset, end in spans:
                if joined and joined[-1][0] == pitch and joined[-1][2] == onset:
                    joined[-1] = (pitch, joined[-1][1], end)
                else:
                    joined.append((pitch, onset, end))
            spans = joined
        return self._song(spans, self._length(song), song)

    def _song(self, spans: Iterable[tuple[int, int, int]], steps: int, like: Song | None) -> Song:
        program = like.program() if like else self.program
        notes = [SongNote(on * self.step, pitch, (end - on) * self.step, program=program) for pitch, on, end in spans]
        tempos = like.tempos if like else ((0, self.qpm),)
        meters = like.meters if like else ((0, *self.meter),)
        return Song("roll", "roll", tuple(sorted(notes)), steps * self.step, tempos, meters)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal codec back."""
        names = ("steps_per_quarter", "strikes", "lowest", "highest", "levels", "qpm", "meter", "program")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RollCodec:
        """The codec that `to_dict` described.

        Raises:
            ValueError: the dictionary is of another kind.
        """
        try:
            return cls(**{**data, "meter": tuple(data.get("meter", DEFAULT_METER))})
        except TypeError as error:
            raise ValueError(f"not a roll codec ({error})") from None


def _before_stop(row: Iterable[int]) -> Iterable[int]:
    for code in row:
        if code == STOP:
            return
        yield code
