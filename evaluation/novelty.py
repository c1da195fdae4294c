"""Compare sound with training music: how near its seconds are, and how long it follows one training piece.

Sound is compared in blocks of 128 ms: the mean log-mel spectrum (or the mean pitch classes) of 8 frames of
`audio_metrics`, minus its own mean, so that the level does not count. Training music is indexed at every half block,
output at every block.

- `Index.nearest` gives the distance of each second (8 blocks) to the nearest second of the training music, in principal
  components.
- `Index.copied` gives the longest stretch in which successive groups of 4 blocks are, at a constant offset, within a
  threshold of groups of one training piece. One group in between may miss. Quiet groups never match.

`Index.calibrate` finds the threshold: the highest percentile of held-out music's own nearest distances at which that
music, which is no copy, is in stretches longer than `MAX_CHANCE_S` for at most a hundredth of its time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from evaluation import audio_metrics

BLOCK, HALF = 8, 4  # frames of a block, and from one row of `Blocks` to the next
BLOCK_S = BLOCK / audio_metrics.FRAMES_PER_SECOND
STEP = BLOCK // HALF  # rows from one block to the next that does not overlap it
SECOND, GROUP = 8, 4  # blocks: 1.024 s and 0.512 s
COMPONENTS = 32  # principal components
MAX_FITTED_ROWS = 20_000  # to fit the principal components
CANDIDATES = 24  # nearest training groups that a stretch may follow
PERCENTILES = (90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 7, 5, 3, 2, 1)
MAX_CHANCE_S, MAX_CHANCE_FRACTION = 1.5, 0.01  # of held-out music
QUIET_DB = 30.0  # below the mean level of a recording
CHUNK_S = 60  # seconds of a recording that are analyzed at once, so that memory stays flat


class Blocks(NamedTuple):
    """The blocks of a recording, at every half block: features `(n, D)`, and whether they are loud enough `(n,)`."""

    rows: np.ndarray
    loud: np.ndarray


def blocks(audio: np.ndarray, rate_hz: int, *, chroma: bool = False) -> Blocks:
    """Return mono audio `(N,)` as blocks of log-mel spectra, or of pitch classes."""
    size = CHUNK_S * rate_hz
    parts = [_chunk(audio[start : start + size], rate_hz, chroma) for start in range(0, max(len(audio), 1), size)]
    return Blocks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _chunk(audio: np.ndarray, rate_hz: int, chroma: bool) -> Blocks:
    if len(audio) < BLOCK_S * rate_hz or not np.any(audio):
        return Blocks(np.zeros((0, 12 if chroma else audio_metrics.MELS), np.float32), np.zeros(0, bool))
    frames = audio_metrics.magnitudes(audio, rate_hz)
    power = np.square(frames).mean(axis=1)
    features = audio_metrics.chroma(frames) if chroma else audio_metrics.log_mel(frames)
    rows, level = (sliding_window_view(x, BLOCK, axis=0)[::HALF].mean(axis=-1) for x in (features, power))
    rows = rows - rows.mean(axis=1, keepdims=True)
    return Blocks(rows.astype(np.float32), level > power.mean() * 10 ** (-QUIET_DB / 10))


def grouped(found: Blocks, count: int, *, every: int) -> np.ndarray:
    """Return `count` blocks side by side, `(n, count * D)`, at every `every` half blocks."""
    starts = _starts(found, count, every)
    return found.rows[starts[:, None] + np.arange(count) * STEP].reshape(len(starts), count * found.rows.shape[1])


def _starts(found: Blocks, count: int, every: int) -> np.ndarray:
    return np.arange(0, max(len(found.rows) - (count - 1) * STEP, 0), every)


def _loud(found: Blocks, every: int) -> np.ndarray:
    """Return which groups start and end loud enough to match."""
    starts = _starts(found, GROUP, every)
    return found.loud[starts] & found.loud[starts + (GROUP - 1) * STEP]


class Index:
    """Training music, audio of pieces at `rate_hz`, in which the nearest seconds and copied stretches are searched.

    `chroma`: compare pitch classes, in all twelve transpositions. ValueError: no piece is a second long.
    """

    def __init__(self, pieces: Iterable[np.ndarray], rate_hz: int, *, chroma: bool = False) -> None:
        self.rate_hz, self.chroma = rate_hz, chroma
        found = [blocks(piece, rate_hz, chroma=chroma) for piece in pieces]
        whole = np.concatenate([grouped(b, SECOND, every=STEP) for b in found])
        if not len(whole):
            raise ValueError("no training piece is a second long: there is nothing to compare the output with")
        self.seconds = _Neighbors(whole)
        loud = [np.flatnonzero(_loud(b, 1)) for b in found]
        self.places = np.concatenate(loud)  # of each indexed group, within its piece
        self.owners = np.repeat(np.arange(len(found)), [len(x) for x in loud])
        groups = [grouped(b, GROUP, every=1)[i] for b, i in zip(found, loud, strict=True)]
        self.groups = _Neighbors(np.concatenate(groups))

    def nearest(self, recordings: Sequence[np.ndarray]) -> np.ndarray:
        """Return the distance of every second of recordings to the nearest second of the training music, `(n,)`."""
        found = [blocks(audio, self.rate_hz, chroma=self.chroma) for audio in recordings]
        rows = np.concatenate([grouped(b, SECOND, every=SECOND * STEP) for b in found])
        if not len(rows):
            return np.zeros(0)
        classes = rows.reshape(len(rows), SECOND, -1)
        keys = [np.roll(classes, shift, axis=2).reshape(len(rows), -1) for shift in range(12 if self.chroma else 1)]
        return np.min([self.seconds.nearest(x, 1)[0][:, 0] for x in keys], axis=0)

    def calibrate(self, recordings: Sequence[np.ndarray]) -> float:
        """Return the threshold of `copied`, found on held-out music (see the top of the file)."""
        found = [self._candidates(audio) for audio in recordings]
        nearest = np.concatenate([np.zeros(0), *(distances[:, 0] for distances, _ in found)])
        nearest = nearest[np.isfinite(nearest)]
        if not len(nearest):
            return 0.0
        for percentile in PERCENTILES:
            threshold = float(np.percentile(nearest, percentile))
            stretches = np.concatenate([self._stretches(*candidates, threshold) for candidates in found])
            if np.mean(stretches > MAX_CHANCE_S) <= MAX_CHANCE_FRACTION:
                break
        return threshold

    def copied(self, audio: np.ndarray, threshold: float) -> float:
        """Return the seconds of the longest stretch that follows one training piece at a constant offset."""
        return float(np.max(self._stretches(*self._candidates(audio), threshold), initial=0.0))

    def _stretches(self, distances: np.ndarray, places: np.ndarray, threshold: float) -> np.ndarray:
        """Return the seconds of the longest stretch that ends at each group, `(n,)`; 0 if nothing matches."""
        found = np.zeros(len(places))
        runs: dict[tuple[int, int], tuple[int, int]] = {}  # last and first group of a run, by piece and offset
        for now in range(len(places)):
            for near in places[now][distances[now] <= threshold]:
                key = int(self.owners[near]), int(self.places[near]) - STEP * now
                last, first = runs.get(key, (now, now))
                _, first = runs[key] = now, first if now - last <= 2 else now
                found[now] = max(found[now], now - first + GROUP)
        return found * BLOCK_S

    def _candidates(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and numbers of the nearest training groups of every group, `(n, k)`; infinite if quiet."""
        found = blocks(audio, self.rate_hz, chroma=self.chroma)
        rows = grouped(found, GROUP, every=STEP)
        if not len(rows):
            return np.zeros((0, 1)), np.zeros((0, 1), int)
        distances, places = self.groups.nearest(rows, CANDIDATES)
        return np.where(_loud(found, STEP)[:, None], distances, np.inf), places


def against(distances: Mapping[str, np.ndarray], reference: str) -> dict[str, dict[str, float | None]]:
    """Return median and 5th percentile of each side, and their ratios to those of the reference; None if unknown."""
    found = {}
    for name, side in distances.items():
        row: dict[str, float | None] = {}
        for figure, percentile in (("median", 50), ("p5", 5)):
            sides = (side, distances[reference])
            value, usual = (float(np.percentile(x, percentile)) if len(x) else None for x in sides)
            row |= {figure: value, f"{figure}_ratio": value / usual if value is not None and usual else None}
        found[name.replace(" ", "_")] = row
    return found


class _Neighbors:
    """A search for the nearest rows, in principal components."""

    def __init__(self, rows: np.ndarray) -> None:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        few = len(rows) <= MAX_FITTED_ROWS
        chosen = rows if few else rows[np.random.default_rng(0).choice(len(rows), MAX_FITTED_ROWS, False)]
        self.pca = PCA(min(COMPONENTS, *chosen.shape), svd_solver="covariance_eigh").fit(chosen)
        self.index = NearestNeighbors(algorithm="brute").fit(self.pca.transform(rows))

    def nearest(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return Euclidean distances of `rows` `(n, F)` to the `count` nearest indexed ones, and the indices of these.

        Shape: `(n, count)` each, or fewer columns where fewer rows are indexed.
        """
        distances, places = self.index.kneighbors(self.pca.transform(rows), min(count, self.index.n_samples_fit_))
        return np.asarray(distances), np.asarray(places)
