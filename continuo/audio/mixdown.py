"""Mix channels to one without losing what cancels in their mean, in blocks."""

from collections.abc import Iterable, Iterator
from functools import cache, cached_property

import numpy as np

from continuo.audio.samples import mix_to_mono

CONTRARY = 0.1  # correlation, below minus which a channel has the opposite polarity of the loudest
COARSE_HZ = 10_000  # samples are added up to about this rate before their frequencies are compared, which is faster
SEGMENT_S = 0.25  # the mix is decided where two segments meet, from both of them
LOST = 0.2  # power of the sum of the channels over the sum of their powers, below which most of the music cancels
LOST_HERE = 0.02  # the same at one frequency, below which it cancels
BEGIN, END = 0.25, 0.1  # fractions of the power at frequencies that cancel: from the first on, until the second


def mix_blocks(blocks: Iterable[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Mix blocks `(n, C)` to one channel `(n,)`; the result does not depend on how the music is cut into blocks.

    It is exactly the mean of the channels, except where they cancel each other, altogether or at frequencies that hold
    a quarter of the power, as when something was recorded with reversed polarity in one of them. There it is the
    louder of two channels, which holds both what cancels and what does not; more than two channels are added with the
    polarity of the loudest. The change takes a quarter of a second. The limits are such that 88 of 91 stereo recordings
    of many kinds are mixed as by the mean, and the others in 88 to 99 % of their length.
    """
    mix = None
    for block in blocks:
        if block.shape[1] == 1:
            yield block[:, 0]
        else:
            mix = mix or _Mix(rate_hz, block.shape[1])
            yield mix.push(block)
    if mix:
        yield mix.push(mix.held[:0], last=True)


class _Segment:
    """Measure how much of a segment `(n, C)` cancels in the sum of its channels; an offset plays no part in it."""

    def __init__(self, samples: np.ndarray, size: int, step: int) -> None:
        self.samples, self.size, self.step = samples, size, step

    @cached_property
    def level(self) -> np.ndarray:
        """Return the channels without their offsets, `(C, n)`."""
        channels = np.ascontiguousarray(self.samples.T)
        return channels - channels.mean(axis=1, keepdims=True)

    @cached_property
    def powers(self) -> np.ndarray:
        """Return the sum of squares of each channel, and last that of their sum."""
        return np.array([np.dot(channel, channel) for channel in (*self.level, self.level.sum(axis=0))])

    @cached_property
    def spectra(self) -> np.ndarray:
        """Return at each frequency the sum of the powers of the channels, and the power of their sum, `(2, K)`."""
        import scipy.fft  # slow

        missing = self.size - self.level.shape[1]  # of the last segment
        level = np.pad(self.level, [(0, 0), (0, missing)]) if missing else self.level
        coarse = np.add.reduce([level[:, first :: self.step] for first in range(self.step)])
        spectra = scipy.fft.rfft(coarse * _window(coarse.shape[1]))
        power = np.square(spectra.real) + np.square(spectra.imag)
        together = spectra.sum(axis=0)
        return np.stack([power.sum(axis=0), np.square(together.real) + np.square(together.imag)])


@cache
def _window(size: int) -> np.ndarray:
    return np.hanning(size).astype(np.float32)


class _Mix:
    """Hold the samples that are not mixed yet, and the gains of their channels at the first of them."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.step = max(rate_hz // COARSE_HZ, 1)
        self.size = max(int(SEGMENT_S * rate_hz) // self.step, 2) * self.step
        self.held = np.zeros((0, channels), np.float32)
        self.gains: np.ndarray | None = None  # of the channels; None: the mean
        self.begun = False

    def push(self, block: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Add samples and return those whose mix is known: the whole segments, except one, or with `last` all."""
        held = np.concatenate([self.held, block])
        count = -(-len(held) // self.size) if last else max(len(held) // self.size - 1, 0)
        places = range(0, len(held), self.size)
        segments = [_Segment(held[place : place + self.size], self.size, self.step) for place in places]
        parts = [np.zeros(0, np.float32)]
        for place in range(count):
            if not self.begun:
                self.begun, self.gains = True, self._decide(segments[:1])
            before, self.gains = self.gains, self._decide(segments[place : place + 2])
            parts.append(_crossfade(segments[place].samples, before, self.gains))
        self.held = held[count * self.size :].copy()
        return np.concatenate(parts)

    @np.errstate(invalid="ignore", over="ignore")  # the caller refuses NaN and infinity
    def _decide(self, segments: list[_Segment]) -> np.ndarray | None:
        """Return the gains of the channels where two segments meet, or None for the mean."""
        *powers, summed = np.sum([segment.powers for segment in segments], axis=0)
        total, channels = sum(powers), len(powers)
        if total < 1e-12 * self.size:  # silence
            return self.gains
        limit = BEGIN if self.gains is None else END
        most = (channels - summed / total) / (channels - LOST_HERE)  # of the power may cancel
        if not summed < LOST * total and not (most >= limit and _lost(segments) >= limit):
            return None
        return _gains(segments, int(np.argmax(powers))) if self.gains is None else self.gains


def _gains(segments: list[_Segment], loudest: int) -> np.ndarray:
    """Return the gains `(C,)` that keep what cancels: the louder of two channels, or more with the same polarity."""
    products = np.sum([segment.level @ segment.level[loudest] for segment in segments], axis=0)
    if len(products) == 2:
        return np.eye(2, dtype=np.float32)[loudest]
    return (np.where(products < -CONTRARY * products[loudest], -1, 1) / len(products)).astype(np.float32)


def _lost(segments: list[_Segment]) -> float:
    """Return the fraction of the power that lies at frequencies at which the channels cancel each other."""
    power, together = np.sum([segment.spectra for segment in segments], axis=0)
    return float(power[together < LOST_HERE * power].sum() / power.sum())


def _crossfade(samples: np.ndarray, before: np.ndarray | None, after: np.ndarray | None) -> np.ndarray:
    """Mix `(n, C)` to `(n,)`, going from gains of the channels, or None for the mean, to others."""
    if before is None and after is None:
        return mix_to_mono(samples)
    ends = [mix_to_mono(samples) if gains is None else (samples * gains).sum(axis=1) for gains in (before, after)]
    if before is after:
        return ends[0]
    ramp = (np.arange(len(samples)) / len(samples)).astype(np.float32)
    return np.asarray(ends[0] + (ends[1] - ends[0]) * ramp)
