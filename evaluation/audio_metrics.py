"""Listening with numbers: how like real music generated music is, without any trained network.

Everything is measured at 16 kHz on spectrograms of 64 ms frames every 16 ms, at one loudness.
"""

import numpy as np
from scipy.fft import dct
from scipy.signal import resample_poly, stft

from continuo.audio.stft import mel_filters

RATE_HZ, WINDOW, HOP = 16_000, 1024, 256
FRAMES_PER_SECOND = RATE_HZ / HOP
ONSET_RISE = 0.25  # nats, averaged over bins, between one frame and the next
MELS = 48
BEATS_S = np.geomspace(0.2, 0.6, 150)  # periods of a pulse: 100 to 300 a minute
PULSE_S = 6.0  # for which a tempo is taken to be steady


def magnitudes(audio: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mono audio `(N,)` to magnitudes `(T, 513)` at 16 kHz and an RMS of 0.07."""
    divisor = int(np.gcd(rate_hz, RATE_HZ))
    audio = resample_poly(np.asarray(audio, np.float64), RATE_HZ // divisor, rate_hz // divisor)
    audio = audio * 0.07 / (np.sqrt(np.mean(np.square(audio))) + 1e-9)
    frames = stft(audio, RATE_HZ, "hann", WINDOW, WINDOW - HOP, padded=False)[2]
    return np.asarray(np.abs(frames).T * WINDOW / 2)


def log_mel(spectrum: np.ndarray) -> np.ndarray:
    """Magnitudes `(T, 513)` to the logarithms of 48 mel bands, `(T, 48)`."""
    return np.asarray(np.log(spectrum @ mel_filters(_bins_hz(), MELS).T + 1e-2))


def chroma(spectrum: np.ndarray) -> np.ndarray:
    """Magnitudes `(T, 513)` to the share of the twelve pitch classes, from A on, `(T, 12)`."""
    classes = spectrum @ _chroma_filters().T
    return np.asarray(classes / (classes.sum(axis=1, keepdims=True) + 1e-9))


def statistics(audio: np.ndarray, rate_hz: int) -> dict[str, float]:
    """Onsets per second, pulse, spectral flux, median level, flatness, share of silence and drift of one recording.

    An onset is a local peak of the mean rise of the log spectrum above `ONSET_RISE`. The pulse is 1 where everything
    rises on one steady beat, and about 0.35 where it rises at any time. Drift is the level of the last fifth over that
    of the first, in dB.
    """
    spectrum = magnitudes(audio, rate_hz)
    logs = np.log(spectrum + 0.1)
    change = np.diff(logs, axis=0)
    rise = np.clip(change, 0, None).mean(axis=1)
    inner = rise[1:-1]
    onsets = int(((inner > ONSET_RISE) & (inner >= rise[2:]) & (inner > rise[:-2])).sum())
    level = 10 * np.log10(np.square(spectrum).mean(axis=1) + 1e-9)
    fifth = max(1, len(level) // 5)
    blocks = np.array_split(np.asarray(audio, np.float64), max(1, len(audio) * 4 // rate_hz))
    quiet = [np.sqrt(np.mean(np.square(block))) < 1e-3 for block in blocks]
    return {
        "onsets_per_s": onsets * FRAMES_PER_SECOND / len(spectrum),
        "pulse": pulse(rise),
        "flux": float(np.abs(change).mean()),
        "level_db": float(np.median(level)),
        "flatness": float((logs.mean(axis=1) - np.log(np.exp(logs).mean(axis=1))).mean()),
        "silence": float(np.mean(quiet)),
        "drift_db": float(level[-fifth:].mean() - level[:fifth].mean()),
    }


def pulse(rise: np.ndarray) -> float:
    """How steadily music pulses: its rises `(T,)` beyond the usual one, summed as phasors of the beat that fits best.

    0 ... 1, the mean over stretches of `PULSE_S`; 0 where nothing rises.
    """
    steady = []
    for stretch in np.array_split(rise, max(1, round(len(rise) / (PULSE_S * FRAMES_PER_SECOND)))):
        beyond = np.clip(stretch - np.median(stretch), 0, None)
        turns = np.arange(len(beyond)) / FRAMES_PER_SECOND / BEATS_S[:, None]
        steady.append(np.abs(np.exp(2j * np.pi * turns) @ beyond).max() / (beyond.sum() + 1e-9))
    return float(np.mean(steady))


def window_features(audio: np.ndarray, rate_hz: int, seconds: float = 2.0) -> np.ndarray:
    """Features of every whole window: timbre, its movement, harmony, modulation and flux, `(windows, 183)`."""
    spectrum, length = magnitudes(audio, rate_hz), int(seconds * FRAMES_PER_SECOND)
    starts = range(0, len(spectrum) - length + 1, length)
    return np.array([_describe(spectrum[start : start + length]) for start in starts])


def _describe(window: np.ndarray) -> np.ndarray:
    mel = log_mel(window)
    movement = np.diff(mel, axis=0)
    timbre = dct(mel, norm="ortho", axis=1)[:, :20]
    classes = chroma(window)
    entropy = -(classes * np.log(classes + 1e-9)).sum(axis=1).mean()
    modulation = np.abs(np.fft.rfft(mel - mel.mean(axis=0), axis=0))[1:17].mean(axis=1)
    logs = np.log(window + 0.1)
    flux = np.percentile(np.abs(np.diff(logs, axis=0)).mean(axis=1), [5, 25, 50, 75, 95])
    flatness = (logs.mean(axis=1) - np.log(np.exp(logs).mean(axis=1))).mean()
    moments = [m for x in (timbre, classes) for m in (x.mean(axis=0), x.std(axis=0))]
    motion = [np.abs(movement).mean(axis=0), movement.std(axis=0)]
    return np.concatenate([*moments, *motion, [entropy], modulation, flux, [flatness]])


def squared_mmd(real: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al., 2012), Gaussian kernel; 0: the same distribution.

    The bandwidth is the median squared distance between real windows. Features are standardised by the real ones.
    """
    mean, deviation = real.mean(axis=0), real.std(axis=0) + 1e-6
    a, b = (real - mean) / deviation, (other - mean) / deviation
    within_a = _squared_distances(a, a)
    width = np.median(within_a[np.triu_indices(len(a), 1)])
    k_aa, k_bb, k_ab = (np.exp(-d / width) for d in (within_a, _squared_distances(b, b), _squared_distances(a, b)))
    pairs = lambda k: (k.sum() - len(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    return float(pairs(k_aa) + pairs(k_bb) - 2 * k_ab.mean())


def compare(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> dict[str, float]:
    """Ratios of onsets, pulse and flux, both sides' drift and silence, the squared MMD of 2 s windows, and so on."""
    ours, theirs = ([statistics(audio, rate_hz) for audio in side] for side in (real, other))
    mean = lambda side, name: float(np.mean([s[name] for s in side]))  # noqa: E731
    return {
        "onset_ratio": mean(theirs, "onsets_per_s") / max(mean(ours, "onsets_per_s"), 1e-9),
        "pulse_ratio": mean(theirs, "pulse") / max(mean(ours, "pulse"), 1e-9),
        "flux_ratio": mean(theirs, "flux") / mean(ours, "flux"),
        "level_diff_db": mean(theirs, "level_db") - mean(ours, "level_db"),
        "drift_db": mean(theirs, "drift_db"),
        "real_drift_db": mean(ours, "drift_db"),
        "silence": mean(theirs, "silence"),
        "mmd2": squared_mmd(*(np.concatenate([window_features(a, rate_hz) for a in side]) for side in (real, other))),
    }


def separability(real: list[np.ndarray], other: list[np.ndarray], rate_hz: int) -> float:
    """How well a classifier tells 2 s windows of the two sides apart: area under the ROC curve, 0.5 is not at all.

    The better of a logistic regression and a random forest, cross-validated; windows of the same recording (entry i of
    either side) never sit on both sides of a split.
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
    scores = (
        cross_val_predict(model, features, label, groups=group, cv=folds, method="predict_proba")[:, 1]
        for model in (linear, forest)
    )
    return max(float(roc_auc_score(label, score)) for score in scores)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(a[:, None] - b[None]).sum(-1))


def _bins_hz() -> np.ndarray:
    return np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)


def _chroma_filters() -> np.ndarray:
    """Bins between 100 and 2,500 Hz by the nearest pitch class, `(12, 513)`."""
    bins = _bins_hz()
    audible = np.flatnonzero((bins > 100) & (bins < 2500))
    filters = np.zeros((12, len(bins)))
    filters[np.round(12 * np.log2(bins[audible] / 440)).astype(int) % 12, audible] = 1
    return filters
