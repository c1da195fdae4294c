"""Measure what becomes of a long continuation as sound: whether it fades, freezes or repeats itself."""

import numpy as np

from continuo.model.stream import StreamSpec
from evaluation import audio_metrics

MIN_LAG_S, MAX_LAG_S = 0.25, 30.0  # lengths of loops
MAX_LOOP_DISTANCE = 0.3  # fraction of the distance between unrelated moments
MIN_VARIETY = 0.05  # nats; a sound whose moments are more similar than that is frozen, and no loop
MAX_STILL_CHANGE = 0.05  # fraction of the usual change of real music


def levels_db(audio: np.ndarray, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    """Return the RMS level of every whole block of `seconds`, in dB below full scale, at least -120."""
    size = int(seconds * rate_hz)
    blocks = np.asarray(audio[: len(audio) // size * size], np.float64).reshape(-1, size)
    return np.asarray(10 * np.log10(np.square(blocks).mean(axis=1) + 1e-12))


def level_drift(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Return the level of the last 5 s before 10 s, 30 s and the end, in dB over that of the first 10 s, by name."""
    ends = {"at_10_s": 10 * rate_hz, "at_30_s": 30 * rate_hz, "at_the_end": len(audio)}
    parts = {name: audio[max(0, end - 5 * rate_hz) : end] for name, end in ends.items() if end <= len(audio)}
    first = levels_db(audio[: 10 * rate_hz], rate_hz, min(10.0, len(audio) / rate_hz))[0]
    return {name: float(levels_db(part, rate_hz, len(part) / rate_hz)[0] - first) for name, part in parts.items()}


def onsets_by_part(audio: np.ndarray, rate_hz: int, seconds: float = 30.0) -> list[float]:
    """Return the onsets per second of every whole part of `seconds`, or of the whole audio if it is shorter."""
    size = min(int(seconds * rate_hz), len(audio))
    parts = [audio[start : start + size] for start in range(0, len(audio) - size + 1, size)]
    return [audio_metrics.statistics(part, rate_hz)["onsets_per_s"] for part in parts]


def loop_length_s(audio: np.ndarray, rate_hz: int) -> float | None:
    """Return the shortest lag, 0.25 to 30 s, at which the last half repeats nearly exactly; None if there is none.

    The mean distance between log-mel frames one lag apart is compared with the median distance between random frames.
    Lags are at most half of the examined audio, so that it contains every loop twice.
    """
    rows = audio_metrics.log_mel(audio_metrics.magnitudes(audio[len(audio) // 2 :], rate_hz))
    shortest, longest = (int(s * audio_metrics.FRAMES_PER_SECOND) for s in (MIN_LAG_S, MAX_LAG_S))
    longest = min(longest, len(rows) // 2)
    if longest <= shortest:
        return None
    a, b = np.random.default_rng(0).integers(0, len(rows), (2, 4000))
    usual = float(np.median(np.abs(rows[a] - rows[b]).mean(axis=1)))
    if usual < MIN_VARIETY:
        return None
    distance = np.array([np.abs(rows[lag:] - rows[:-lag]).mean() for lag in range(shortest, longest + 1)])
    for place in np.flatnonzero(distance < MAX_LOOP_DISTANCE * usual):
        if place + 1 == len(distance) or distance[place + 1] >= distance[place]:  # the bottom of the valley
            return float((place + shortest) / audio_metrics.FRAMES_PER_SECOND)
    return None


def changes(stream: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """Return the fraction of levels that change at each step, or the RMS change in standardized units, `(T - 1,)`."""
    if not spec.continuous:
        return np.asarray((stream[1:] != stream[:-1]).mean(axis=1))
    assert spec.deviation is not None
    return np.sqrt(np.square(np.diff(stream, axis=0) / spec.deviation.numpy()).mean(axis=1))


def longest_still_s(change: np.ndarray, usual: float, steps_per_second: float) -> float:
    """Return the longest time, in seconds, in which no step changes by more than a twentieth of the usual.

    >>> longest_still_s(np.array([1.0, 0.0, 0.0, 1.0]), 1.0, 2.0)
    1.0
    """
    moving = np.flatnonzero(change > MAX_STILL_CHANGE * usual)
    gaps = np.diff(moving, prepend=-1, append=len(change)) - 1
    return float(gaps.max() / steps_per_second)
