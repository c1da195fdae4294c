"""Audio samples that lie in memory, in a file, or in a view that resamples them as they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continuo.audio.resampling import Resampler


@dataclass(frozen=True)
class Baseline:
    """The slow course of an offset: `points` (n, 1 + C) of a sample's number and the offset of each channel there."""

    points: np.ndarray

    def over(self, start: int, stop: int) -> np.ndarray:
        """Return the offset of samples `start` to `stop`, `(n, C)`, on straight lines between the points."""
        places, *courses = self.points.T
        lines = [np.interp(np.arange(start, stop), places, course) for course in courses]
        return np.stack(lines, axis=1).astype(np.float32)


class StoredSamples:
    """Give access to samples in a raw float32 file by `len`, slices of step 1, and `np.asarray`, which reads them.

    They are `(N,)`, or `(N, 2)` of two `channels`, begin at `start` and end before `stop` (None: with the file).
    Slicing reads nothing. No file stays open or mapped, so a corpus may have any number of pieces. `restore` must write
    the file again if it is missing or damaged. `baseline` is subtracted as samples are read.
    """

    def __init__(
        self,
        path: Path,
        start: int = 0,
        stop: int | None = None,
        restore: Callable[[], None] | None = None,
        *,
        channels: int = 1,
        baseline: Baseline | None = None,
    ) -> None:
        self.path, self.start, self.restore, self.baseline = path, start, restore, baseline
        self.channels = self.ndim = channels  # the number of axes too, as of an array
        self.stop = path.stat().st_size // (4 * channels) if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "StoredSamples":
        start, stop, _ = part.indices(len(self))
        first, last = self.start + start, self.start + max(start, stop)
        return StoredSamples(self.path, first, last, self.restore, channels=self.channels, baseline=self.baseline)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        try:
            samples = self._read()
        except FileNotFoundError:
            if self.restore is None:
                raise
            samples = np.zeros((0, 2)[: self.ndim], np.float32)
        if self.restore and (len(samples) < len(self) or not np.isfinite(samples).all()):
            self.restore()
            samples = self._read()
        if self.baseline is not None:
            offset = self.baseline.over(self.start, self.start + len(samples))
            samples = samples - (offset[:, 0] if self.ndim == 1 else offset)
        return samples.astype(dtype or np.float32, copy=False)

    def _read(self) -> np.ndarray:
        first, count = self.channels * self.start, self.channels * len(self)
        samples = np.fromfile(self.path, np.float32, count, offset=4 * first)
        return samples if self.channels == 1 else samples[: len(samples) // 2 * 2].reshape(-1, 2)


class ResampledView:
    """Resample as samples are read, by `len` and slices of step 1: arrays that equal slices of the resampled whole."""

    def __init__(self, samples: "Samples", resampler: Resampler) -> None:
        self.samples, self.resampler = samples, resampler
        self.ndim: int = samples.ndim

    def __len__(self) -> int:
        return self.resampler.length(len(self.samples))

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        if start >= stop:
            return np.zeros((0, 2)[: self.ndim], np.float32)
        unit, made, margin = self.resampler.unit, self.resampler.made, self.resampler.margin
        first = max(start // made * unit - margin, 0)  # a multiple of `unit`
        last = min(-(-stop // made) * unit + margin, len(self.samples))
        skipped = first // unit * made
        return self.resampler(np.asarray(self.samples[first:last], np.float32))[start - skipped : stop - skipped]


Samples = np.ndarray | StoredSamples | ResampledView


def mix_to_mono(samples: np.ndarray) -> np.ndarray:
    """Average the channels of `(n, C)` to `(n,)`, which is returned as it is.

    Adding channel by channel is 20 times as fast as `mean(axis=1)`.
    """
    if samples.ndim == 1:
        return samples
    total = samples[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):  # the caller refuses NaN and infinity
        for channel in range(1, samples.shape[1]):
            total = total + samples[:, channel]
        return total / np.float32(samples.shape[1])


def channels_differ(samples: np.ndarray) -> bool:
    """Return whether the left and the right channel of `(n, 2)` differ anywhere."""
    return not np.array_equal(samples[:, 0], samples[:, 1])
