"""Measure how loud audio is, how far it lies off zero, and where its silence at both ends lies."""

from itertools import pairwise

import numpy as np

from continuo.audio.samples import Baseline, Samples, mix_to_mono
from continuo.system.workers import check_cancelled

REFERENCE_DB = -23.0  # dB below full scale: the gated level to which all music is brought for the models
SILENCE_DB = -35.0  # dB relative to the loudness of a piece
FADED_DB, FADED_S = -25.0, 1.0  # dB relative to the loudness of a prompt, and seconds below that at its end: it faded
OFFSET_DB = -26.0  # dB relative to the loudness of a piece, above which its offset is removed
OFFSET_PART_S = 0.5  # s; an offset may change over such times
STEP = 0.25  # of the largest offset; it steps where it changes by more from one part to the next


def block_powers(samples: Samples, size: int) -> np.ndarray:
    """Return the mean square of every `size` samples, `(ceil(N / size),)` float64; the last block may be shorter.

    That of stereo is the mean over both channels, so that channels out of phase do not cancel each other.

    >>> block_powers(np.array([1, 3, 2], np.float32), 2).tolist()
    [5.0, 4.0]
    """
    powers = [np.zeros(0)]
    step = max(1, (1 << 18) // size) * size
    for first in range(0, len(samples), step):
        check_cancelled()
        squared = mix_to_mono(np.square(samples[first : first + step], dtype=np.float64))
        whole = len(squared) // size * size
        powers.append(squared[:whole].reshape(-1, size).mean(axis=1))
        if whole < len(squared):
            powers.append(squared[whole:].mean(keepdims=True))
    return np.concatenate(powers)


def audible_range(samples: Samples, sample_rate_hz: int, loudness: float) -> tuple[int, int]:
    """Return the first and last sample (exclusive) without the silence at both ends, plus 0.1 s on either side.

    Silence lies `SILENCE_DB` below `loudness` (dB below full scale). A model that learns from recordings with silent
    ends learns to fall silent.
    """
    size = max(1, sample_rate_hz // 50)
    loud = np.flatnonzero(block_powers(samples, size) > 10 ** ((loudness + SILENCE_DB) / 10))
    if not len(loud):
        return 0, len(samples)
    return max(0, (int(loud[0]) - 5) * size), min(len(samples), (int(loud[-1]) + 6) * size)


def faded_from(samples: Samples, sample_rate_hz: int, loudness: float) -> int:
    """Return the sample (exclusive) up to which a prompt sounds: its end, unless that is silence or a long fade.

    Such an end lies `FADED_DB` below `loudness` (dB below full scale) for `FADED_S` or more.
    """
    size = max(1, sample_rate_hz // 50)
    loud = np.flatnonzero(block_powers(samples, size) > 10 ** ((loudness + FADED_DB) / 10))
    end = min(len(samples), (int(loud[-1]) + 1) * size) if len(loud) else len(samples)
    return end if len(samples) - end >= FADED_S * sample_rate_hz else len(samples)


def loudness_db(samples: Samples, sample_rate_hz: int) -> float:
    """Return the gated level: RMS over the 0.4 s blocks at most 20 dB below the loudest, in dB below full scale.

    Pauses and fades do not count, as in EBU R 128, but there is no frequency weighting. Silence gives -120.
    """
    size = max(1, int(0.4 * sample_rate_hz))
    power = block_powers(samples, size)
    if not len(power) or power.max() < 1e-12:
        return -120.0
    return float(10 * np.log10(power[power >= power.max() * 1e-2].mean()))


def baseline(samples: Samples, sample_rate_hz: int, loudness: float) -> Baseline | None:
    """Return the offset of samples whose loudness with it is `loudness` (dB below full scale), or None if it is small.

    A recording has an offset (DC) if its samples do not swing around zero, as with a faulty input. It cannot be heard,
    but counts as loudness, and a step where music with it meets music without it can be heard.
    """
    count = max(1, round(len(samples) / (OFFSET_PART_S * sample_rate_hz)))
    edges = np.linspace(0, len(samples), count + 1).astype(int)
    means = []
    for start, stop in pairwise(edges):
        check_cancelled()
        means.append(_channels(samples[start:stop]).mean(axis=0, dtype=np.float64))
    levels = np.array(means)
    if np.square(levels).mean() <= 10 ** ((loudness + OFFSET_DB) / 10):
        return None
    points = dict(enumerate(np.column_stack([(edges[1:] + edges[:-1] - 1) / 2, levels])[:, None]))
    jumps = np.abs(np.diff(levels, axis=0, prepend=levels[:1], append=levels[-1:])).max(axis=1)  # before and after each
    for part in range(1, count):
        if jumps[part] == jumps[part - 1 : part + 2].max() and jumps[part] > STEP * np.abs(levels).max():
            points[part - 1] = _step(_channels(samples[edges[part - 1] : edges[part + 1]]), edges[part - 1])
            points[part] = points[part][:0]
    course = np.concatenate([*points.values()])
    ends = (3 * course[[0, -1]] - course[[min(1, len(course) - 1), max(-2, -len(course))]]) / 2
    return Baseline(np.concatenate([ends[:1], course, ends[1:]]))


def _channels(samples: Samples) -> np.ndarray:
    """Return samples `(n,)` or `(n, C)` as an array `(n, C)`."""
    array = np.asarray(samples)
    return array.reshape(len(array), -1)


def _step(samples: np.ndarray, start: int) -> np.ndarray:
    """Return the points of a step of the offset within samples `(n, C)` from number `start` on.

    It lies where the sum of what came so far differs most from what it would be without a step.
    """
    sums = np.cumsum(samples - samples.mean(axis=0, dtype=np.float64), axis=0)
    at = int(np.abs(sums[:-1]).sum(axis=1).argmax()) + 1
    places = np.array([0, at - 1, at, len(samples) - 1]) + start
    before, after = samples[:at].mean(axis=0, dtype=np.float64), samples[at:].mean(axis=0, dtype=np.float64)
    return np.column_stack([places, [before, before, after, after]])
