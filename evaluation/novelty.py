"""Is it new? How near output comes to the music that was trained on, beside how near unseen music comes.

Sound is looked at in blocks of 128 ms: the mean log-mel spectrum (or the pitch classes) of 8 frames of
`audio_metrics`, less its own mean, so that level does not count. Training music is indexed at every half block,
output at every block. Two questions:

- `Index.nearest`: the distance of each second (8 blocks) to the nearest second of the training music, in principal
  components (scikit-learn's PCA and NearestNeighbors).
- `Index.copied`: the longest stretch in which successive groups of 4 blocks lie, at a constant offset, within a
  threshold of groups of one training piece. One in between may miss. Quiet groups never match.

The threshold is calibrated: the widest percentile of held-out music's own nearest distances at which held-out music,
which was not copied, is in stretches longer than `CHANCE_S` for at most a hundredth of its time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation import audio_metrics

BLOCK, STRIDE = 8, 4  # frames
BLOCK_S = BLOCK / audio_metrics.FRAMES_PER_SECOND
SECOND, GROUP = 8, 4  # blocks: 1.024 s, which is "a second" here, and 0.512 s
COMPONENTS = 32
CANDIDATES = 24  # nearest training groups that a run may go through
PERCENTILES = (90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 7, 5, 3, 2, 1)
CHANCE_S, CHANCE_SHARE = 1.5, 0.01
QUIET_DB = 30.0  # below the mean level of a recording
CHUNK_S = 60  # of a recording that is analysed at once


class Blocks(NamedTuple):
    """Blocks of one recording, at every half block: features `(n, D)`, and which are loud enough to match `(n,)`."""

    rows: np.ndarray
    loud: np.ndarray


def blocks(audio: np.ndarray, rate_hz: int, *, chroma: bool = False) -> Blocks:
    """Mono audio `(N,)` as blocks; analysed a minute at a time, so that memory stays flat."""
    size = CHUNK_S * rate_hz
    parts = [_chunk(audio[start : start + size], rate_hz, chroma) for start in range(0, max(len(audio), 1), size)]
    rows, loud = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return Blocks(rows, loud)


def _chunk(audio: np.ndarray, rate_hz: int, chroma: bool) -> tuple[np.ndarray, np.ndarray]:
    width = 12 if chroma else audio_metrics.MELS
    if len(audio) < BLOCK_S * rate_hz or not np.any(audio):
        return np.zeros((0, width), np.float32), np.zeros(0, bool)
    spectrum = audio_metrics.magnitudes(audio, rate_hz)
    power = np.square(spectrum).mean(axis=1)
    frames = audio_metrics.chroma(spectrum) if chroma else audio_metrics.log_mel(spectrum)
    rows, level = (_means(x) for x in (frames, power[:, None]))
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows.astype(np.float32), level[:, 0] > power.mean() * 10 ** (-QUIET_DB / 10)


def _means(frames: np.ndarray) -> np.ndarray:
    """Means of `BLOCK` rows at every `STRIDE`, `(n, D)`."""
    sums = np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0)])
    return np.asarray((sums[BLOCK::STRIDE] - sums[:-BLOCK:STRIDE]) / BLOCK)


def grouped(found: Blocks, count: int, *, every: int) -> np.ndarray:
    """`count` blocks side by side, `(n, count * D)`, at every `every` half blocks."""
    starts = _starts(found, count, every)
    return found.rows[starts[:, None] + np.arange(count) * (BLOCK // STRIDE)].reshape(
        len(starts), count * found.rows.shape[1]
    )


def _starts(found: Blocks, count: int, every: int) -> np.ndarray:
    return np.arange(0, max(len(found.rows) - (count - 1) * (BLOCK // STRIDE), 0), every)


class Index:
    """Training music, ready to be asked what is near.

    Args:
        pieces: audio of each, at `rate_hz`.
        chroma: compare pitch classes instead of spectra, and take every query in all twelve transpositions.
        advance: called with the number of pieces done.

    Raises:
        ValueError: no piece is a second long.
    """

    def __init__(
        self,
        pieces: Sequence[np.ndarray],
        rate_hz: int,
        *,
        chroma: bool = False,
        advance: Callable[[int], object] = lambda done: None,
    ) -> None:
        self.rate_hz, self.chroma = rate_hz, chroma
        found: list[Blocks] = []
        for done, piece in enumerate(pieces, start=1):
            found.append(blocks(piece, rate_hz, chroma=chroma))
            advance(done)
        whole = np.concatenate([grouped(b, SECOND, every=BLOCK // STRIDE) for b in found])
        if not len(whole):
            raise ValueError("no training piece is a second long: there is nothing to compare the output with")
        self.seconds = _Neighbours(whole)
        loud = [np.flatnonzero(_loud(b, 1)) for b in found]
        self.places = np.concatenate(loud)  # of each indexed group, within its piece
        self.owners = np.repeat(np.arange(len(found)), [len(x) for x in loud])
        groups = [grouped(b, GROUP, every=1)[i] for b, i in zip(found, loud, strict=True)]
        self.groups = _Neighbours(np.concatenate(groups))

    def nearest(self, recordings: Sequence[np.ndarray]) -> np.ndarray:
        """Distance of every second to the nearest second of the training music, `(n,)`."""
        found = [blocks(audio, self.rate_hz, chroma=self.chroma) for audio in recordings]
        rows = np.concatenate([grouped(b, SECOND, every=SECOND * BLOCK // STRIDE) for b in found])
        if not len(rows):
            return np.zeros(0)
        turned = [rows]
        if self.chroma:
            shape = (len(rows), SECOND, 12)
            turned = [np.roll(rows.reshape(shape), turn, axis=2).reshape(len(rows), -1) for turn in range(12)]
        return np.min([self.seconds.ask(x, 1)[0][:, 0] for x in turned], axis=0)

    def calibrate(self, recordings: Sequence[np.ndarray]) -> float:
        """The threshold of `copied`, from held-out music (see above)."""
        found = [self._candidates(audio) for audio in recordings]
        nearest = np.concatenate([np.zeros(0), *(distances[:, 0] for _, distances in found)])
        nearest = nearest[np.isfinite(nearest)]
        if not len(nearest):
            return 0.0
        for percentile in PERCENTILES:
            threshold = float(np.percentile(nearest, percentile))
            stretches = np.concatenate([self._stretches(*candidates, threshold) for candidates in found])
            if np.mean(stretches > CHANCE_S) <= CHANCE_SHARE:
                break
        return threshold

    def copied(self, audio: np.ndarray, threshold: float) -> float:
        """Seconds of the longest stretch that follows one training piece at a constant offset."""
        return float(np.max(self._stretches(*self._candidates(audio), threshold), initial=0.0))

    def _stretches(self, places: np.ndarray, distances: np.ndarray, threshold: float) -> np.ndarray:
        """Seconds of the longest stretch that ends at each group, `(n,)`; 0 where nothing matches."""
        step, found = BLOCK // STRIDE, np.zeros(len(places))
        runs: dict[tuple[int, int], tuple[int, int]] = {}  # piece and offset: last group that matched, first of the run
        for now in range(len(places)):
            for near in places[now][distances[now] <= threshold]:
                key = int(self.owners[near]), int(self.places[near]) - step * now
                last, first = runs.get(key, (now - 9, now))
                first = first if now - last <= 2 else now
                runs[key] = now, first
                found[now] = max(found[now], now - first + GROUP)
        return found * BLOCK_S

    def _candidates(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest training groups of every group: numbers and distances `(n, k)`; infinite for a quiet one."""
        found = blocks(audio, self.rate_hz, chroma=self.chroma)
        rows, loud = grouped(found, GROUP, every=BLOCK // STRIDE), _loud(found, BLOCK // STRIDE)
        if not len(rows):
            return np.zeros((0, 1), int), np.zeros((0, 1))
        distances, places = self.groups.ask(rows, CANDIDATES)
        return places, np.where(loud[:, None], distances, np.inf)


def _loud(found: Blocks, every: int) -> np.ndarray:
    """Which groups begin and end loud enough to match."""
    starts = _starts(found, GROUP, every)
    return found.loud[starts] & found.loud[starts + (GROUP - 1) * (BLOCK // STRIDE)]


def against(distances: dict[str, np.ndarray], yardstick: str) -> dict[str, Any]:
    """Median and 5th percentile of every side, and their ratios to the yardstick's; None where there is nothing."""
    found: dict[str, Any] = {}
    real = distances[yardstick]
    for name, side in distances.items():
        row: dict[str, float | None] = {}
        for figure, percentile in (("median", 50), ("p5", 5)):
            value = float(np.percentile(side, percentile)) if len(side) else None
            least = float(np.percentile(real, percentile)) if len(real) else 0.0
            row |= {figure: value, f"{figure}_ratio": value / least if value is not None and least > 0 else None}
        found[name.replace(" ", "_")] = row
    return found


class _Neighbours:
    """Nearest rows in principal components."""

    def __init__(self, rows: np.ndarray) -> None:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        chosen = rows if len(rows) <= 20_000 else rows[np.random.default_rng(0).choice(len(rows), 20_000, False)]
        self.pca = PCA(min(COMPONENTS, *chosen.shape), svd_solver="covariance_eigh").fit(chosen)
        self.count = len(rows)
        self.index = NearestNeighbors(algorithm="brute").fit(self.pca.transform(rows))

    def ask(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and numbers of the `count` nearest rows, or of all where there are fewer, `(n, count)` each."""
        distances, places = self.index.kneighbors(self.pca.transform(rows), min(count, self.count))
        return np.asarray(distances), np.asarray(places)
