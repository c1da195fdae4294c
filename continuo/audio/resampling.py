"""Resample audio to another rate, as a whole, block by block, or only the part that is read."""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

BLOCK_SAMPLES = 1 << 19  # samples that are decoded or resampled together
MAX_TAPS = 1 << 24  # filter coefficients; rates with hardly a common factor are approximated to stay below it
MIN_ROWS = 64  # outputs of one row of the matrix product; with fewer, most of a core's width is unused


class Resampler:
    """Resample by a windowed sinc: every `unit` input samples become `made` output samples.

    The filter is torchaudio's. It is laid out as a band matrix of at least `MIN_ROWS` outputs, so that resampling is
    one matrix product, which is twice as fast as torchaudio's own call and equal to it up to rounding.
    """

    def __init__(self, unit: int, made: int) -> None:
        from torchaudio.transforms import Resample

        self.unit, self.made = _reduced_ratio(unit, made)
        reach = 16 * max(1.0, self.unit / self.made)  # more than the filter's 6 zero crossings on either side
        self.margin = (math.ceil(reach / self.unit) + 1) * self.unit  # farther input does not change an output
        plain = Resample(self.unit, self.made)
        taps = plain.kernel[:, 0]  # (made, 2 * width + unit)
        self._before, repeats = plain.width, -(-MIN_ROWS // self.made)
        self._step, rows = repeats * self.unit, repeats * self.made
        self._band = taps.new_zeros(rows, self._step - self.unit + taps.shape[1])
        for i in range(repeats):
            self._band[i * self.made : (i + 1) * self.made, i * self.unit : i * self.unit + taps.shape[1]] = taps

    def length(self, samples: int) -> int:
        """Return the number of output samples for `samples` input samples."""
        return math.ceil(samples * self.made / self.unit)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Resample `(N,)` or `(N, C)` to `ceil(N * made / unit)` float32 samples, with silence before and after."""
        import torch

        if samples.ndim == 2:
            return np.stack([self(channel) for channel in samples.T], axis=1)
        rows, reach = self._band.shape
        length = self.length(len(samples))
        covered = (-(-length // rows) - 1) * self._step + reach
        padded = np.zeros(max(covered, self._before + len(samples)), np.float32)
        padded[self._before : self._before + len(samples)] = samples
        with torch.inference_mode():
            windows = torch.from_numpy(padded).unfold(0, reach, self._step)  # (at least ceil(length / rows), reach)
            return (windows @ self._band.T).flatten()[:length].numpy()


def _reduced_ratio(unit: int, made: int) -> tuple[int, int]:
    """Reduce `unit / made`, or approximate it within a millionth where its filter would exceed `MAX_TAPS`.

    >>> _reduced_ratio(44100, 24000), _reduced_ratio(44101, 24000)
    ((147, 80), (3857, 2099))
    """
    ratio = Fraction(unit, made)
    if ratio.numerator * ratio.denominator > MAX_TAPS:
        ratio = ratio.limit_denominator(max(math.isqrt(int(MAX_TAPS / ratio)), 1))
    return ratio.numerator, ratio.denominator


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Resample a stream of blocks of any lengths; the result equals resampling the whole, sample for sample.

    Blocks are `(n,)` or `(n, C)`. Yields `ceil(N * to_hz / from_hz)` samples in all. Each part is resampled with
    `margin` samples of context on either side, and the output of the context is cut off.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    resampler = Resampler(from_hz, to_hz)
    margin, part = resampler.margin, max(BLOCK_SAMPLES // resampler.unit, 1) * resampler.unit
    held, context = np.zeros(0, np.float32), 0  # the first `context` samples of `held` are resampled already

    def resampled(count: int) -> np.ndarray:
        start = resampler.length(context)
        return resampler(held[: context + count + margin])[start : start + resampler.length(count)]

    for block in blocks:
        held = np.concatenate([held.reshape(-1, *block.shape[1:]), block])
        while len(held) - context >= part + margin:
            yield resampled(part)
            keep = min(margin, context + part)
            held, context = held[context + part - keep :], keep
    if len(held) > context:
        yield resampled(len(held) - context)
