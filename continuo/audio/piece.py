"""A piece of music as audio, which is read from disk only where it is used."""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from continuo.audio.loudness import REFERENCE_DB, loudness_db
from continuo.audio.resampling import Resampler
from continuo.audio.samples import ResampledView, Samples, mix_to_mono

MAX_LOUDNESS_DB = 3.0  # dB; a square wave at full scale has 0
SILENT_PEAK = 1e-4  # of full scale, -80 dB


@dataclass(frozen=True)
class Piece:
    """A piece is a recording or a rendered score, or a part of one."""

    id: str  # unique and stable within a corpus
    source: str  # the origin, for people to read
    sample_rate_hz: int
    samples: Samples  # float32 (N,), in stereo (N, 2), in memory, in a file, or resampled as it is read
    loudness_db: float  # gated RMS of the whole, in dB below full scale
    key: str = ""  # identifies the samples in caches; empty if nothing about the piece is to be cached
    has_ending: bool = True  # the music ends where the samples end
    damage: str = ""  # what is wrong with the file, in words that follow its name
    offset: float = 0.0  # of full scale, what was subtracted from the samples because they did not swing around zero
    faded_s: float = 0.0  # s of silence or of a fade at the end of a prompt that were cut
    rendering: str = ""  # remark on how a score was rendered, in words that follow its name

    @classmethod
    def from_samples(cls, samples: Samples, sample_rate_hz: int, *, source: str = "samples") -> "Piece":
        """Make a piece of samples in memory and measure its loudness."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        return cls(source, source, sample_rate_hz, samples, loudness_db(samples, sample_rate_hz))

    @property
    def remarks(self) -> list[str]:
        """Return warnings about the piece; each continues a sentence that begins with its name."""
        faded = f"ends in {self.faded_s:.1f} s of silence or of a fade: they are left out, and the music goes on before"
        loud = f"lies {self.loudness_db:.0f} dB over full scale, and continuations will clip: make it quieter"
        centered = f"lies {self.offset:+.3f} off zero (a DC offset), which was removed from it"
        return (
            [remark for remark in (self.damage, self.rendering) if remark]
            + [centered] * (self.offset != 0)
            + [faded] * (self.faded_s > 0)
            + [loud] * (self.loudness_db > MAX_LOUDNESS_DB)
        )

    @property
    def seconds(self) -> float:
        """Return the length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    @property
    def empty(self) -> bool:
        """Return whether the piece has no samples."""
        return not len(self.samples)

    @property
    def extent(self) -> int:
        """Return the length in the unit that training counts: samples."""
        return len(self.samples)

    @cached_property
    def gain(self) -> float:
        """Return the factor that brings the piece to `REFERENCE_DB`; dividing by it restores the original level."""
        return 10 ** ((REFERENCE_DB - self.loudness_db) / 20)

    @property
    def channels(self) -> int:
        """Return 1 for mono, 2 for stereo."""
        return 2 if self.samples.ndim == 2 else 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return `read_channels` in mono `(n,)`, the mean of the channels."""
        return mix_to_mono(self.read_channels(start, stop))

    def read_channels(self, start: int, stop: int) -> np.ndarray:
        """Return samples `start` to `stop` at `REFERENCE_DB`, float32, with silence outside the piece.

        They are `(n,)` in mono, and `(n, 2)` in stereo, left and right.
        """
        inside = np.asarray(self.samples[max(start, 0) : max(stop, 0)], np.float32) * np.float32(self.gain)
        before = min(max(-start, 0), stop - start)
        outside = (before, stop - start - before - len(inside))
        return np.pad(inside, [outside, (0, 0)][: inside.ndim])

    def excerpt(self, start: int, stop: int, name: str) -> "Piece":
        """Return samples `start` to `stop` as a piece of its own, with the gain of the whole."""
        return replace(
            self,
            id=f"{self.id}#{name}",
            source=f"{self.source} ({name})",
            samples=self.samples[start:stop],
            key=self.key and f"{self.key}#{start}-{stop}",
            has_ending=self.has_ending and stop >= len(self.samples),
        )

    def transposed(self, semitones: int) -> "Piece":
        """Return the piece played faster or slower, raised by `semitones` (negative: lowered) within 1 cent."""
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


def check_audible(samples: Samples, sample_rate_hz: int, *, min_samples: int, source: str) -> None:
    """Raise ValueError for audio that is shorter than `min_samples`, silent (peak below -80 dB), or not finite."""
    if len(samples) < min_samples:
        needed = f"at least {min_samples / sample_rate_hz:.3f} s are needed"
        raise ValueError(f"{source} is too short: {len(samples) / sample_rate_hz:.3f} s, {needed}")
    peak = float(np.max([0.0, *(np.abs(samples[i : i + 2**20]).max() for i in range(0, len(samples), 2**20))]))
    check_peak(peak, source)


def check_peak(peak: float, source: str) -> None:
    """Raise ValueError for a largest absolute sample that is below -80 dB, or not finite."""
    if not np.isfinite(peak):
        raise ValueError(f"{source} holds samples that are not numbers (NaN or infinity): export it again")
    if peak < SILENT_PEAK:
        raise ValueError(f"{source} is silent (its peak is below -80 dB)")
