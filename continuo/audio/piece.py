"""One piece of music, as audio that is read from disk only where it is looked at."""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from continuo.audio.files import REFERENCE_DB, ResampledView, Resampler, Samples, loudness_db

LOUDEST_DB = 3.0  # a square wave at full scale is at 0
CUT_SHORT = "is cut short: its file holds less than it promises, and what there is was read"


@dataclass(frozen=True)
class Piece:
    """A piece, or a stretch of one.

    Attributes:
        id: unique and stable within a corpus.
        source: where it came from, for people.
        sample_rate_hz: of `samples`.
        samples: float32 `(N,)`, an array, a file that is read where it is looked at, or a view that is resampled there.
        loudness_db: gated RMS of the whole, dB below full scale.
        key: changes with the samples; empty where nothing about the piece is to be cached.
        has_ending: whether the music ends where the samples end, and is not cut there.
        cut_short: whether its file holds less than it promises.
    """

    id: str
    source: str
    sample_rate_hz: int
    samples: Samples
    loudness_db: float
    key: str = ""
    has_ending: bool = True
    cut_short: bool = False

    @classmethod
    def from_samples(cls, samples: Samples, sample_rate_hz: int, *, source: str = "samples") -> "Piece":
        """A piece that lives in memory; its loudness is measured here."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        return cls(source, source, sample_rate_hz, samples, loudness_db(samples, sample_rate_hz))

    @property
    def remarks(self) -> list[str]:
        """What whoever hears the piece should know; each goes on from its name."""
        over = f"lies {self.loudness_db:.0f} dB over full scale, and what goes on like it will clip: make it quieter"
        return [CUT_SHORT] * self.cut_short + [over] * (self.loudness_db > LOUDEST_DB)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate_hz

    @property
    def empty(self) -> bool:
        """Whether no sample is in it."""
        return not len(self.samples)

    @property
    def extent(self) -> int:
        """Length in the unit that training is counted by: changes when the music does."""
        return len(self.samples)

    @cached_property
    def gain(self) -> float:
        """What brings the piece to the loudness that every model hears, `REFERENCE_DB`; divide by it to come back."""
        return 10 ** ((REFERENCE_DB - self.loudness_db) / 20)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` to `stop` at the models' loudness, float32; silence outside the piece."""
        inside = np.asarray(self.samples[max(start, 0) : max(stop, 0)], np.float32) * np.float32(self.gain)
        before = min(max(-start, 0), stop - start)
        return np.pad(inside, (before, stop - start - before - len(inside)))

    def excerpt(self, start: int, stop: int, name: str) -> "Piece":
        """A part of the piece, as a piece of its own, at the gain of the whole."""
        return replace(
            self,
            id=f"{self.id}#{name}",
            source=f"{self.source} ({name})",
            samples=self.samples[start:stop],
            key=self.key and f"{self.key}#{start}-{stop}",
            has_ending=self.has_ending and stop >= len(self.samples),
        )

    def transposed(self, semitones: int) -> "Piece":
        """The piece played faster or slower, so that it sounds so many semitones higher (or lower): 0 is itself.

        Equal temperament is met within 1 cent.
        """
        if semitones == 0:
            return self
        ratio = Fraction(2 ** (semitones / 12)).limit_denominator(100)
        return replace(
            self,
            id=f"{self.id}{semitones:+d}",
            source=f"{self.source} ({semitones:+d} semitones)",
            samples=ResampledView(self.samples, Resampler(ratio.numerator, ratio.denominator)),
            key=self.key and f"{self.key}{semitones:+d}",
        )


def check_audible(samples: Samples, sample_rate_hz: int, *, least_samples: int, source: str) -> None:
    """Refuse audio that nothing can be learned or continued from.

    Raises:
        ValueError: empty, shorter than `least_samples`, silent (peak below -80 dB), or not finite.
    """
    if len(samples) < least_samples:
        raise ValueError(
            f"{source} is too short: {len(samples) / sample_rate_hz:.3f} s, "
            f"at least {least_samples / sample_rate_hz:.3f} s are needed"
        )
    peak = float(np.max([0.0, *(np.abs(samples[i : i + 2**20]).max() for i in range(0, len(samples), 2**20))]))
    check_peak(peak, source)


def check_peak(peak: float, source: str) -> None:
    """Refuse a largest absolute sample that no music has.

    Raises:
        ValueError: below -80 dB, or not finite.
    """
    if not np.isfinite(peak):
        raise ValueError(f"{source} holds samples that are not numbers (NaN or infinity): export it again")
    if peak < 1e-4:
        raise ValueError(f"{source} is silent (its peak is below -80 dB)")
