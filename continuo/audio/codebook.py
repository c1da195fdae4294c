"""Residual vector quantisation: vectors become a few small integers, each level refining what the levels before left.

Juang and Gray, Multiple stage vector quantization for speech coding, 1982. Principal components first (scikit-learn's
PCA, no whitening: distances keep their meaning), then k-means (scikit-learn) on the residual of every level.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

BY_HEART = 1.5  # times the squared error of what was fitted, on music that was not, from where on a fit is too close
PLENTY = 128  # vectors for each centroid, of which levels know none by heart: 1.3 times is what chorales have then
ENCODE_ROWS = 256  # what is worked on stays in the processor's cache, and no memory is asked for and given back


@dataclass(frozen=True)
class ResidualCodebook:
    """A fitted quantiser.

    Attributes:
        mean: `(F,)` of the fitted vectors.
        components: `(P, F)` orthonormal rows.
        centroids: `(L, V, P)`.
    """

    mean: torch.Tensor
    components: torch.Tensor
    centroids: torch.Tensor

    @property
    def levels(self) -> int:
        return self.centroids.shape[0]

    @cached_property
    def powers(self) -> torch.Tensor:
        """Squared length of each centroid, `(L, V)`."""
        return self.centroids.square().sum(-1)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """`(T, F)` float32 to codes `(T, L)` int64, the nearest centroid level after level."""
        return torch.cat([self._encode_rows(rows) for rows in vectors.split(ENCODE_ROWS)])

    def _encode_rows(self, vectors: torch.Tensor) -> torch.Tensor:
        residual = (vectors - self.mean) @ self.components.T  # (T, P)
        codes = []
        for centroids, powers in zip(self.centroids, self.powers, strict=True):
            code = nearest(residual, centroids, powers)
            residual = residual - centroids[code]
            codes.append(code)
        return torch.stack(codes, dim=-1)

    def dequantize(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(..., L)` to principal components `(..., P)`: the sum of the levels' centroids."""
        return self.centroids[torch.arange(self.levels, device=codes.device), codes].sum(-2)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(..., L)` to vectors `(..., F)`."""
        return self.dequantize(codes) @ self.components + self.mean


def nearest(vectors: torch.Tensor, centroids: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
    """Index of the nearest centroid by |v - c|^2 = |v|^2 - 2 v c + |c|^2.

    Shape: `(T, P)`, `(V, P)` and |c|^2 `(V,)` to `(T,)`.
    """
    distance = torch.addmm(powers, vectors, centroids.T, alpha=-2)
    return torch.from_numpy(distance.numpy().argmin(-1))  # NumPy's is ten times as fast


def fit(
    vectors: np.ndarray,
    *,
    components: int,
    levels: int,
    centroids: int,
    seed: int,
    advance: Callable[[str], None],
    start: ResidualCodebook | None = None,
    every: Iterable[torch.Tensor] | None = None,
    most: int = 0,
) -> ResidualCodebook:
    """Fit PCA and residual k-means on a sample of vectors.

    Args:
        vectors: `(T, F)` float32.
        components: principal components kept, at most F.
        levels, centroids: stages of the quantiser and classes of each.
        seed: of k-means' starting points.
        advance: called with a few words before each part of the work.
        start: of the same shape, to go on from: its components stay and its centroids are moved, so that a class goes
            on meaning nearly what it meant.
        every: `(T, F)` each, float32: a larger sample for the levels, of which only components are kept.
        most: vectors in `every`, at most.

    Raises:
        ValueError: fewer vectors than centroids or components.
    """
    from sklearn.decomposition import PCA

    least = max(components, centroids)
    if len(vectors) < least:
        raise ValueError(
            f"the corpus has {len(vectors)} frames, too few for {least} centroids or components: "
            "add recordings, or lower representation.centroids and representation.components"
        )
    if start is None:
        advance("principal components")
        pca = PCA(components, svd_solver="covariance_eigh").fit(vectors)
        mean, axes = pca.mean_, pca.components_
    else:
        mean, axes = start.mean.numpy(), start.components.numpy()
    every, most = ([torch.from_numpy(vectors)], len(vectors)) if every is None else (every, most)
    residual = laid_out((torch.from_numpy((run.numpy() - mean) @ axes.T) for run in every), most).numpy()
    stages = _stages(residual, levels, centroids, seed, start, lambda words: advance(f"codebook {words}"))
    return ResidualCodebook(_as_tensor(mean), _as_tensor(axes), stages)


def laid_out(parts: Iterable[torch.Tensor], rows: int) -> torch.Tensor:
    """Parts `(T, F)` one after another, `rows` in all at most, in memory that is asked for once.

    Small parts that are kept, between large ones that are not, would leave a gigabyte of gaps.
    """
    whole, filled = torch.empty(0), 0
    for part in parts:
        if not filled:
            whole = part.new_empty(rows, part.shape[1])
        whole[filled : filled + len(part)] = part
        filled += len(part)
    return whole[:filled]


def cross_fit_quantize(
    codebook: ResidualCodebook,
    vectors: torch.Tensor,
    *,
    seed: int,
    advance: Callable[[str], None],
    start: ResidualCodebook | None = None,
    fitted_to: int = 0,
) -> torch.Tensor:
    """Vectors quantised as coarsely as those that a codebook was not fitted to, though it was fitted to these.

    Levels that were fitted to little music know it by heart: on twenty minutes of a piano, the squared error on other
    pieces is twice as large. So each half is quantised by levels that are fitted to the other half. Where these are not
    `BY_HEART` times worse, a half is too small for them or the codebook had `PLENTY`, the codebook itself quantises.

    Args:
        codebook: that was fitted to the vectors, from `start`.
        vectors: `(T, F)` float32, piece after piece, so that the halves are of different music.
        seed, advance: as for `fit`.
        fitted_to: how many vectors the levels were fitted to, if to more than these.

    Returns:
        `(T, P)`, their principal components.
    """
    levels, centroids, _ = codebook.centroids.shape
    seen = codebook.dequantize(codebook.encode(vectors))
    if len(vectors) // 2 < centroids or fitted_to >= PLENTY * centroids:
        return seen
    truth, halves, quantised = (vectors - codebook.mean) @ codebook.components.T, vectors.tensor_split(2), []
    for half, other in zip(halves, truth.tensor_split(2)[::-1], strict=True):
        stages = _stages(
            other.numpy().copy(), levels, centroids, seed, start, lambda words: advance(f"half a codebook, {words}")
        )
        book = ResidualCodebook(codebook.mean, codebook.components, stages)
        quantised.append(book.dequantize(book.encode(half)))
    apart = torch.cat(quantised)
    by_heart = (apart - truth).square().sum() > BY_HEART * (seen - truth).square().sum()
    return apart if by_heart else seen


def _stages(
    residual: np.ndarray,
    levels: int,
    centroids: int,
    seed: int,
    start: ResidualCodebook | None,
    advance: Callable[[str], None],
) -> torch.Tensor:
    """Centroids `(L, V, P)` of principal components `(T, P)`, in whose place the last residual is left."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    stages = []
    for level in range(levels):
        advance(f"level {level + 1} of {levels}")
        init = "random" if start is None else start.centroids[level].numpy()
        few = {"n_init": 1, "max_iter": 15, "tol": 0, "copy_x": False}  # no copies: they are what takes most memory
        kmeans = KMeans(centroids, init=init, algorithm="lloyd", random_state=(seed + level) % 2**32, **few)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # where vectors are few, some centroids idle
            kmeans.fit(residual)
        for first in range(0, len(residual), ENCODE_ROWS):
            rows = slice(first, first + ENCODE_ROWS)
            residual[rows] -= kmeans.cluster_centers_[kmeans.labels_[rows]]
        stages.append(kmeans.cluster_centers_)
    return _as_tensor(np.stack(stages))


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
