"""What becomes of a long continuation: does it fade, fall silent, freeze, or go round in a circle?"""

import numpy as np

from continuo.model.stream import StreamSpec
from evaluation import audio_metrics

MIN_LAG_S, MAX_LAG_S = 0.25, 30.0
NEARLY_EXACT = 0.3  # of the distance between unrelated moments
CONSTANT = 0.05  # nats: a sound whose moments are all so near is frozen, not looping
STILL = 0.05  # of the usual change of real music


def levels_db(audio: np.ndarray, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    """RMS level of every whole block of `seconds`, dB below full scale, at least -120."""
    size = int(seconds * rate_hz)
    blocks = np.asarray(audio[: len(audio) // size * size], np.float64).reshape(-1, size)
    return np.asarray(10 * np.log10(np.square(blocks).mean(axis=1) + 1e-12))


def level_drift(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Level of the last 5 s before 10 s, 30 s and the end, over that of the first 10 s, in dB, by the mark's name."""
    level = lambda start, stop: float(levels_db(audio[start:stop], rate_hz, (stop - start) / rate_hz)[0])  # noqa: E731
    first = level(0, min(10 * rate_hz, len(audio)))
    marks = {f"at_{second}_s": second * rate_hz for second in (10, 30)} | {"at_the_end": len(audio)}
    return {name: level(max(0, m - 5 * rate_hz), m) - first for name, m in marks.items() if m <= len(audio)}


def onsets_by_part(audio: np.ndarray, rate_hz: int, seconds: float = 30.0) -> list[float]:
    """Onsets per second in every whole part of `seconds`; of the whole where it is shorter."""
    size = min(int(seconds * rate_hz), len(audio))
    parts = [audio[start : start + size] for start in range(0, len(audio) - size + 1, size)]
    return [audio_metrics.statistics(part, rate_hz)["onsets_per_s"] for part in parts]


def loop_length_s(audio: np.ndarray, rate_hz: int) -> float | None:
    """The shortest lag, 0.25 to 30 s, at which the last half repeats nearly exactly; None where there is none.

    The mean distance between the log-mel frames of now and a lag ago is set beside the median distance between
    moments drawn at random. Lags reach at most half of what is looked at, so that every repetition is heard whole.
    """
    rows = audio_metrics.log_mel(audio_metrics.magnitudes(audio[len(audio) // 2 :], rate_hz))
    least, most = (int(s * audio_metrics.FRAMES_PER_SECOND) for s in (MIN_LAG_S, MAX_LAG_S))
    most = min(most, len(rows) // 2)
    if most <= least:
        return None
    a, b = np.random.default_rng(0).integers(0, len(rows), (2, 4000))
    usual = float(np.median(np.abs(rows[a] - rows[b]).mean(axis=1)))
    if usual < CONSTANT:
        return None
    distance = np.array([np.abs(rows[lag:] - rows[:-lag]).mean() for lag in range(least, most + 1)])
    for place in np.flatnonzero(distance < NEARLY_EXACT * usual):
        if place + 1 == len(distance) or distance[place + 1] >= distance[place]:  # down to the bottom of the valley
            return float((place + least) / audio_metrics.FRAMES_PER_SECOND)
    return None


def changes(stream: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """How much each step differs from the one before, `(T - 1,)`.

    The share of levels whose code is another, or the root mean square difference in standardised units.
    """
    if not spec.continuous:
        return np.asarray((stream[1:] != stream[:-1]).mean(axis=1))
    assert spec.deviation is not None
    return np.sqrt(np.square(np.diff(stream, axis=0) / spec.deviation.numpy()).mean(axis=1))


def longest_still_s(change: np.ndarray, usual: float, steps_per_second: float) -> float:
    """The longest stretch, in seconds, in which nothing changes by more than a twentieth of the usual.

    >>> longest_still_s(np.array([1.0, 0.0, 0.0, 1.0]), 1.0, 2.0)
    1.0
    """
    longest = run = 0
    for still in change <= STILL * usual:
        run = run + 1 if still else 0
        longest = max(longest, run)
    return longest / steps_per_second
