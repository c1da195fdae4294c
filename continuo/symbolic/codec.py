"""The contract of the codecs between songs and codes, and what the two codecs on a grid share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median, mode
from typing import Self

import numpy as np

from continuo.model.metadata import Json
from continuo.symbolic.grid import nearest_step
from continuo.symbolic.song import QUARTER, Song, SongNote


class NoteCodec(ABC):
    """Converts songs to codes and back. `ChordCodec`, `RollCodec` and `RemiCodec` are codecs."""

    follows: np.ndarray | None = None  # `(V, V)` bool, whether code b may follow code a; None allows everything
    opens: np.ndarray | None = None  # `(V,)` bool, whether a song may begin with a code; None allows everything

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[int, ...]:
        """The number of codes V of each of the L levels."""

    @property
    def ranks(self) -> np.ndarray | None:
        """Ranks of the codes, `(V,)`, if those of a step ascend strictly in rank up to a stop, which fills the rest."""
        return None

    @classmethod
    @abstractmethod
    def fit(cls, songs: Sequence[Song]) -> Self:
        """Return the codec for a corpus."""

    @abstractmethod
    def encode(self, song: Song) -> np.ndarray:
        """Return the codes of a song, `(T, L)` int64."""

    @abstractmethod
    def decode(self, codes: np.ndarray, like: Song | None = None) -> Song:
        """Return the song of any codes `(T, L)` of the vocabulary; `like` lends what codes do not hold."""

    def round_trip(self, song: Song) -> Song:
        """Return what the codes keep of a song: `decode(encode(song), like=song)`."""
        return self.decode(self.encode(song), song)

    def out_of_range(self, song: Song) -> int:
        """Count the notes that encoding moves by octaves, because the corpus has no such pitches."""
        return 0

    @abstractmethod
    def to_dict(self) -> Json:
        """Return the codec in plain JSON types, for `from_dict`."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Json) -> Self:
        """Return the codec that `to_dict` described; raise ValueError if it describes none of this kind."""


@dataclass(frozen=True, kw_only=True)
class GridCodec(NoteCodec):
    """A codec on a time grid that keeps no velocities, no drums, and one program of each song."""

    steps_per_quarter: int  # steps of a quarter note, a divisor of 480
    program: int = 0  # of songs that are decoded without `like`, as the meter and the tempo
    meter: tuple[int, int] = (4, 4)
    qpm: float = 120.0

    def __post_init__(self) -> None:
        if self.steps_per_quarter < 1 or QUARTER % self.steps_per_quarter:
            raise ValueError(f"steps_per_quarter {self.steps_per_quarter} does not divide {QUARTER} ticks of a quarter")
        if not (0 <= self.program <= 127 and len(self.meter) == 2 and min(self.meter) > 0 and 0 < self.qpm < math.inf):
            raise ValueError(f"impossible program {self.program}, meter {self.meter} or tempo {self.qpm} qpm")

    def with_usual_facts(self, songs: Sequence[Song]) -> Self:
        """Return this codec with the most frequent program and meter of songs, and their median tempo."""
        program = mode(song.program() for song in songs)
        meter = mode(song.meter_at(song.ticks // 2) for song in songs)  # not of an upbeat
        return replace(self, program=program, meter=meter, qpm=float(median(song.qpm_at(0) for song in songs)))

    @cached_property
    def step(self) -> int:
        """Ticks of a grid step."""
        return QUARTER // self.steps_per_quarter

    @cached_property
    def usual_song(self) -> Song:
        """A song with the usual facts, which it lends to songs that are decoded without another."""
        return Song("", "", (SongNote(0, 60, 1, program=self.program),), 1, ((0, self.qpm),), ((0, *self.meter),))

    def nearest_step(self, tick: int) -> int:
        return nearest_step(tick, self.step)


def pitched_songs(songs: Sequence[Song]) -> list[Song]:
    """Return the songs that have pitched notes; raise ValueError if none has."""
    found = [song for song in songs if any(not note.is_drum for note in song.notes)]
    if not found:
        raise ValueError("there is no pitched note in the corpus")
    return found
