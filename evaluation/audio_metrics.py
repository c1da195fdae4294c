"""Measure how similar generated sound is to real music, without any trained network.

All metrics use 16 kHz, one loudness, and spectrograms of 64 ms frames every 16 ms.
"""

import numpy as np
from scipy.fft import dct
from scipy.signal import resample_poly
from scipy.spatial.distance import cdist

from continuo.audio.stft import mel_filters, spectrum

RATE_HZ, WINDOW, HOP = 16_000, 1024, 256  # window and hop in samples
FRAMES_PER_SECOND = RATE_HZ / HOP
BINS_HZ = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
MIN_ONSET_RISE = 0.25  # nats, mean over bins, from one frame to the next
MELS = 48
BEATS_S = np.geomspace(0.2, 0.6, 150)  # periods of a pulse: 100 to 300 a minute
PULSE_S = 6.0  # seconds in which the tempo is assumed to be steady


def magnitudes(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return the magnitudes `(T, 513)` of mono audio `(N,)` at 16 kHz and an RMS of 0.07."""
    divisor = int(np.gcd(rate_hz, RATE_HZ))
    audio = resample_poly(np.asarray(audio, np.float64), RATE_HZ // divisor, rate_hz // divisor)
    audio = audio * 0.07 / (np.sqrt(np.mean(np.square(audio))) + 1e-9)
    return spectrum(np.pad(audio, WINDOW // 2), WINDOW, HOP).abs().double().numpy()


def log_mel(frames: np.ndarray) -> np.ndarray:
    """Return the logarithms of 48 mel bands, `(T, 48)`, of magnitudes `(T, 513)`."""
    return np.asarray(np.log(frames @ mel_filters(BINS_HZ, MELS).T + 1e-2))


def chroma(frames: np.ndarray) -> np.ndarray:
    """Return the fraction of each pitch class (from A) in 100 ... 2,500 Hz, `(T, 12)`, of magnitudes `(T, 513)`."""
    used = np.flatnonzero((BINS_HZ > 100) & (BINS_HZ < 2500))
    filters = np.zeros((12, len(BINS_HZ)))
    filters[np.round(12 * np.log2(BINS_HZ[used] / 440)).astype(int) % 12, used] = 1
    classes = frames @ filters.T
    return np.asarray(classes / (classes.sum(axis=1, keepdims=True) + 1e-9))


def statistics(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Return onsets per second, pulse, flux, level, flatness, fraction of silence and drift of a recording `(N,)`.

    An onset is a local peak of the mean rise of the log spectrum above `MIN_ONSET_RISE`. The pulse is 1 if everything
    rises on one steady beat, and about 0.35 if it rises at any time. Flux is the mean change of the log spectrum. Drift
    is the level of the last fifth over that of the first, in dB.
    """
    frames = magnitudes(audio, rate_hz)
    logs = np.log(frames + 0.1)
    change = np.diff(logs, axis=0)
    rise = np.clip(change, 0, None).mean(axis=1)
    inner = rise[1:-1]
    onsets = int(((inner > MIN_ONSET_RISE) & (inner >= rise[2:]) & (inner > rise[:-2])).sum())
    level = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-9)
    fifth = max(1, len(level) // 5)
    blocks = np.array_split(np.asarray(audio, np.float64), max(1, len(audio) * 4 // rate_hz))
    return {
        "onsets_per_s": onsets * FRAMES_PER_SECOND / len(frames),
        "pulse": pulse(rise),
        "flux": float(np.abs(change).mean()),
        "level_db": float(np.median(level)),
        "flatness": _flatness(logs),
        "silence": float(np.mean([np.sqrt(np.mean(np.square(block))) < 1e-3 for block in blocks])),
        "drift_db": float(level[-fifth:].mean() - level[:fifth].mean()),
    }


def pulse(rise: np.ndarray) -> float:
    """Return how steady the beat is, 0 ... 1, of rises `(T,)`: the mean over parts of `PULSE_S`.

    The rises above the median are summed as phasors of the beat that fits best. The result is 0 if nothing rises.
    """
    steady = []
    for part in np.array_split(rise, max(1, round(len(rise) / (PULSE_S * FRAMES_PER_SECOND)))):
        above = np.clip(part - np.median(part), 0, None)
        turns = np.arange(len(above)) / FRAMES_PER_SECOND / BEATS_S[:, None]
        steady.append(np.abs(np.exp(2j * np.pi * turns) @ above).max() / (above.sum() + 1e-9))
    return float(np.mean(steady))


def window_features(audio: np.ndarray, rate_hz: int, seconds: float = 2.0) -> np.ndarray:
    """Return the features of every whole window, `(windows, 183)`: timbre, its change, harmony, modulation, flux."""
    frames, length = magnitudes(audio, rate_hz), int(seconds * FRAMES_PER_SECOND)
    starts = range(0, len(frames) - length + 1, length)
    return np.array([_features(frames[start : start + length]) for start in starts])


def _features(window: np.ndarray) -> np.ndarray:
    mel, logs, classes = log_mel(window), np.log(window + 0.1), chroma(window)
    change = np.diff(mel, axis=0)
    timbre = dct(mel, norm="ortho", axis=1)[:, :20]
    entropy = -(classes * np.log(classes + 1e-9)).sum(axis=1).mean()
    modulation = np.abs(np.fft.rfft(mel - mel.mean(axis=0), axis=0))[1:17].mean(axis=1)
    flux = np.percentile(np.abs(np.diff(logs, axis=0)).mean(axis=1), [5, 25, 50, 75, 95])
    moments = [m for x in (timbre, classes) for m in (x.mean(axis=0), x.std(axis=0))]
    motion = [np.abs(change).mean(axis=0), change.std(axis=0)]
    return np.concatenate([*moments, *motion, [entropy], modulation, flux, [_flatness(logs)]])


def _flatness(logs: np.ndarray) -> float:
    return float((logs.mean(axis=1) - np.log(np.exp(logs).mean(axis=1))).mean())


def squared_mmd(real: np.ndarray, other: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy of features `(n, D)`; 0 means the same distribution.

    Gaussian kernel (Gretton et al., 2012), its bandwidth the median squared distance of real, standardized windows.
    """
    mean, deviation = real.mean(axis=0), real.std(axis=0) + 1e-6
    a, b = (real - mean) / deviation, (other - mean) / deviation
    within_a, within_b, across = (cdist(x, y, "sqeuclidean") for x, y in ((a, a), (b, b), (a, b)))
    width = np.median(within_a[np.triu_indices(len(a), 1)])
    k_aa, k_bb, k_ab = (np.exp(-distances / width) for distances in (within_a, within_b, across))
    mean_a, mean_b = ((k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in (k_aa, k_bb))
    return float(mean_a + mean_b - 2 * k_ab.mean())


def compare(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> dict[str, float]:
    """Return ratios and differences of the statistics of two groups of recordings, and their squared MMD."""
    sides = [[statistics(audio, rate_hz) for audio in side] for side in (real, other)]
    ours, theirs = ({name: float(np.mean([s[name] for s in side])) for name in side[0]} for side in sides)
    return {
        "onset_ratio": theirs["onsets_per_s"] / max(ours["onsets_per_s"], 1e-9),
        "pulse_ratio": theirs["pulse"] / max(ours["pulse"], 1e-9),
        "flux_ratio": theirs["flux"] / max(ours["flux"], 1e-9),
        "level_diff_db": theirs["level_db"] - ours["level_db"],
        "drift_db": theirs["drift_db"],
        "real_drift_db": ours["drift_db"],
        "silence": theirs["silence"],
        "mmd2": squared_mmd(*(np.concatenate([window_features(a, rate_hz) for a in side]) for side in (real, other))),
    }


def separability(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> float:
    """Return how well a classifier tells 2 s windows of two groups of recordings apart; 0.5 means not at all.

    The figure is the area under the ROC curve, cross-validated, of the better of a logistic regression and a random
    forest. Windows of the same recording (entry i of either group) are always on the same side of a split.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = [[window_features(audio, rate_hz) for audio in side] for side in (real, other)]
    features = np.nan_to_num(np.concatenate([windows for side in sides for windows in side]))
    label = np.repeat([0, 1], [sum(map(len, side)) for side in sides])
    group = np.concatenate([np.full(len(windows), i) for side in sides for i, windows in enumerate(side)])
    folds = GroupKFold(min(8, len(set(group))))
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000))
    forest = RandomForestClassifier(300, min_samples_leaf=3, random_state=0)
    options = {"groups": group, "cv": folds, "method": "predict_proba"}
    scores = (cross_val_predict(model, features, label, **options)[:, 1] for model in (linear, forest))
    return max(float(roc_auc_score(label, score)) for score in scores)
