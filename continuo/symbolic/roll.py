"""Encode songs as piano rolls: the set of pitches that sound at each step of a time grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import takewhile

import numpy as np

from continuo.model.metadata import Json
from continuo.symbolic.codec import GridCodec, pitched_songs
from continuo.symbolic.song import Song, SongNote

STOP = 0  # code after the last pitch of a step
HELD, ONSET = 1, 2  # states of a pitch in a step; 0 where it is silent


@dataclass(frozen=True, kw_only=True)
class RollCodec(GridCodec):
    """Converts songs to piano rolls and back.

    A step is the set of pitches that sound in it, the lowest first, then a stop; silence is a stop alone. With
    `reattacks` each pitch has two codes, held from the step before and begun in this step; without, touching notes of
    one pitch become one. Times are rounded to the grid, halves up, and a note lasts at least one step. A pitch out of
    range moves to the nearest octave in range. Of more pitches than levels the highest and the lowest ones are kept.
    Codes hold no velocities, programs, drums or tempos.
    """

    reattacks: bool  # whether repeated notes differ from held ones
    lowest: int  # MIDI numbers of the range of the pitches
    highest: int
    levels: int  # the largest number of pitches in a step, L

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.lowest <= self.highest <= 127 and 1 <= self.levels <= 128):
            raise ValueError(f"impossible pitches {self.lowest} to {self.highest} at {self.levels} levels")

    @classmethod
    def fit(
        cls, songs: Sequence[Song], *, steps_per_quarter: int = 4, reattacks: bool = True, max_notes: int = 32
    ) -> RollCodec:
        """Return the codec for a corpus: its range of pitches, and its polyphony up to `max_notes`.

        Raise ValueError if there is no pitched note, or the grid does not divide a quarter note.
        """
        songs = pitched_songs(songs)
        pitches = [note.pitch for song in songs for note in song.notes if not note.is_drum]
        low, high = min(pitches), max(pitches)
        codec = cls(steps_per_quarter=steps_per_quarter, reattacks=reattacks, lowest=low, highest=high, levels=1)
        polyphony = max(int((codec._roll(song) > 0).sum(axis=1).max()) for song in songs)
        return replace(codec, levels=min(polyphony, max_notes)).with_usual_facts(songs)

    @cached_property
    def vocabulary(self) -> tuple[int, ...]:
        return (len(self.ranks),) * self.levels

    @cached_property
    def ranks(self) -> np.ndarray:
        pitches = self.highest - self.lowest + 1
        return np.concatenate([[pitches], np.repeat(np.arange(pitches), self._codes_per_pitch)])

    @cached_property
    def _codes_per_pitch(self) -> int:
        return 2 if self.reattacks else 1

    def out_of_range(self, song: Song) -> int:
        return sum(not n.is_drum and not self.lowest <= n.pitch <= self.highest for n in song.notes)

    def _in_range(self, pitch: int) -> int:
        """Return the pitch or its nearest octave in range; an edge if the range is narrower than an octave."""
        if pitch < self.lowest:
            return min(self.lowest + (pitch - self.lowest) % 12, self.highest)
        return pitch if pitch <= self.highest else max(self.highest - (self.highest - pitch) % 12, self.lowest)

    def _roll(self, song: Song) -> np.ndarray:
        """Return the state of each pitch from the lowest to the highest in each step, `(T, P)`."""
        spans = []
        for note in song.notes:
            if not note.is_drum:
                onset = self.nearest_step(note.onset)
                spans.append((onset, max(self.nearest_step(note.end), onset + 1), self._in_range(note.pitch)))
        steps = max([math.ceil(song.ticks / self.step), *(end for _, end, _ in spans)])
        roll = np.zeros((steps, self.highest - self.lowest + 1), np.int8)
        next_onset: dict[int, int] = {}  # of each pitch; it ends the note before
        for onset, end, pitch in sorted(spans, reverse=True):
            place = pitch - self.lowest
            roll[onset : min(end, next_onset.get(place, end)), place] = HELD
            roll[onset, place] = ONSET
            next_onset[place] = onset
        return roll

    def encode(self, song: Song) -> np.ndarray:
        """Return the codes `(T, L)` int64 of a song, its length rounded up to the grid."""
        roll = self._roll(song)
        codes = np.full((len(roll), self.levels), STOP, dtype=np.int64)
        low = self.levels // 2
        for row, states in zip(codes, roll, strict=True):
            places = np.flatnonzero(states)
            if len(places) > self.levels:
                places = np.concatenate([places[:low], places[low - self.levels :]])
            begun = (states[places] == ONSET) & self.reattacks
            row[: len(places)] = 1 + self._codes_per_pitch * places + begun
        return codes

    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """Return the song of codes `(T, L)`, with tempo, meters and program of `like`, or else the usual ones.

        A pitch that is held although it did not sound begins; codes after a stop are ignored.
        """
        notes: list[SongNote] = []
        onsets: dict[int, int] = {}  # of the pitches that sound
        like = like or self.usual_song
        program = like.program()
        for step, row in enumerate([*codes, []]):
            sounding = dict(self._pitches(row))
            for pitch in [pitch for pitch in onsets if sounding.get(pitch, True)]:
                onset = onsets.pop(pitch)
                notes.append(SongNote(onset * self.step, pitch, (step - onset) * self.step, program=program))
            for pitch in sounding:
                onsets.setdefault(pitch, step)
        return Song("roll", "roll", tuple(sorted(notes)), len(codes) * self.step, like.tempos, like.meters)

    def _pitches(self, row: Iterable[int]) -> Iterator[tuple[int, bool]]:
        """Yield the pitches of a step up to the stop, and whether they begin in it."""
        for code in takewhile(lambda code: code != STOP, row):
            place, begun = divmod(int(code) - 1, self._codes_per_pitch)
            yield self.lowest + place, bool(begun)

    def to_dict(self) -> Json:
        facts = asdict(self)
        return {"strikes": facts.pop("reattacks"), **facts}

    @classmethod
    def from_dict(cls, data: Json) -> RollCodec:
        try:
            facts = {name: value for name, value in data.items() if name not in ("strikes", "meter")}
            return cls(reattacks=data["strikes"], meter=tuple(data["meter"]), **facts)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a roll codec ({error})") from None
