"""Residual vector quantization: a vector becomes a few small integers, each level refining the levels before it.

Juang and Gray, Multiple stage vector quantization for speech coding, 1982. Vectors are first reduced to principal
components (without whitening, so that distances keep their meaning); k-means then quantizes the residual of each level.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

OVERFIT_RATIO = 1.5  # held-out / training squared error above which a codebook counts as overfitted
Advance = Callable[[str], None]  # called with a few words before each part of the work
PLENTY = 128  # vectors per centroid from which on no codebook overfits: the ratio is then about 1.3
ENCODE_ROWS = 256  # vectors that are encoded together; they stay in the processor's cache


@dataclass(frozen=True)
class ResidualCodebook:
    """Quantize vectors by principal components and residual k-means."""

    mean: torch.Tensor  # (F,), subtracted from each vector
    components: torch.Tensor  # (P, F), orthonormal rows
    centroids: torch.Tensor  # (L, V, P), V centroids for each of L levels

    @cached_property
    def powers(self) -> torch.Tensor:
        """Return the squared length of each centroid, `(L, V)`."""
        return self.centroids.square().sum(-1)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the principal components `(T, P)` of vectors `(T, F)`."""
        return (vectors - self.mean) @ self.components.T

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the codes `(T, L)` int64 of vectors `(T, F)` float32: the nearest centroid, level by level."""
        return torch.cat([self._encode_rows(rows) for rows in vectors.split(ENCODE_ROWS)])

    def _encode_rows(self, vectors: torch.Tensor) -> torch.Tensor:
        residual, codes = self.project(vectors), []
        for centroids, powers in zip(self.centroids, self.powers, strict=True):
            code = nearest(residual, centroids, powers)
            residual = residual - centroids[code]
            codes.append(code)
        return torch.stack(codes, dim=-1)

    def dequantize(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the principal components `(..., P)` of codes `(..., L)`: the sum of one centroid per level."""
        return self.centroids[torch.arange(len(self.centroids), device=codes.device), codes].sum(-2)

    def quantize(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the principal components `(T, P)` that are left of vectors `(T, F)` after encoding."""
        return self.dequantize(self.encode(vectors))

    def reconstruct(self, components: torch.Tensor) -> torch.Tensor:
        """Return the vectors `(..., F)` of principal components `(..., P)`."""
        return components @ self.components + self.mean


def nearest(vectors: torch.Tensor, centroids: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
    """Return the nearest of centroids `(V, P)` of squared lengths `(V,)` to each vector `(T, P)`: indices `(T,)`."""
    distance = torch.addmm(powers, vectors, centroids.T, alpha=-2)  # |v - c|^2 without |v|^2
    return torch.from_numpy(distance.numpy().argmin(-1))  # NumPy's argmin is ten times as fast as torch's


def fit(
    vectors: np.ndarray,
    *,
    components: int,
    levels: int,
    centroids: int,
    seed: int,
    advance: Advance,
    start: ResidualCodebook | None = None,
    more_vectors: Iterable[torch.Tensor] | None = None,
    max_vectors: int = 0,
) -> ResidualCodebook:
    """Fit principal components and the centroids of each level to a sample of vectors.

    Args:
        vectors: `(T, F)` float32.
        components: the number of principal components, 1 to F.
        levels, centroids: the number of codes of a vector, and of centroids of each level.
        seed: chooses the centroids from which k-means starts.
        start: a codebook of the same shape to continue from, so that codes keep roughly their old meaning: its
            components stay, and k-means starts from its centroids.
        more_vectors: a larger sample for the levels, in parts `(T, F)` float32; only its components are kept.
        max_vectors: an upper bound on the vectors in `more_vectors`.

    ValueError if there are fewer vectors than centroids or components.
    """
    _check_enough(len(vectors), max(components, centroids))
    if start:
        mean, axes = start.mean.numpy(), start.components.numpy()
    else:
        advance("principal components")
        mean, axes = _principal_axes(vectors, components)
    if more_vectors is None:
        more_vectors, max_vectors = [torch.from_numpy(vectors)], len(vectors)
    rows = concatenate((torch.from_numpy((part.numpy() - mean) @ axes.T) for part in more_vectors), max_vectors)
    stages = _fit_levels(rows.numpy(), levels, centroids, seed, start, lambda words: advance(f"codebook {words}"))
    return ResidualCodebook(_as_tensor(mean), _as_tensor(axes), stages)


def _check_enough(frames: int, needed: int) -> None:
    if frames < needed:
        raise ValueError(
            f"the corpus has {frames} frames, too few for {needed} centroids or components: "
            "add recordings, or lower representation.centroids and representation.components"
        )


def _principal_axes(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean `(F,)` of vectors `(T, F)` and their first `count` principal axes `(count, F)`."""
    from sklearn.decomposition import PCA

    pca = PCA(count, svd_solver="covariance_eigh").fit(vectors)
    return pca.mean_, pca.components_


def concatenate(parts: Iterable[torch.Tensor], max_rows: int) -> torch.Tensor:
    """Concatenate the rows of parts `(T, F)`, in memory that is allocated once; a list of the parts would fragment it.

    `max_rows` is at least the number of all rows; RuntimeError if there are more. Without parts the result is empty.
    """
    whole, filled = torch.empty(0), 0
    for part in parts:
        if not filled:
            whole = part.new_empty(max_rows, part.shape[1])
        whole[filled : filled + len(part)] = part
        filled += len(part)
    return whole[:filled]


def cross_fit_quantize(
    codebook: ResidualCodebook,
    vectors: torch.Tensor,
    *,
    seed: int,
    advance: Advance,
    start: ResidualCodebook | None = None,
    fitted_to: int = 0,
) -> torch.Tensor:
    """Quantize the vectors that a codebook was fitted to with the error it has on held-out vectors.

    A codebook that was fitted to little music overfits: with twenty minutes of a piano, the squared error on other
    pieces is twice as large. Each half of the vectors is therefore quantized by levels that are fitted to the other
    half (two-fold cross-fitting). The codebook itself quantizes where a half is too small for its centroids, where it
    was fitted to `PLENTY` vectors per centroid, or where the halves' error is not `OVERFIT_RATIO` times larger.

    Args:
        codebook: fitted to `vectors`, from `start`, with `seed`.
        vectors: `(T, F)` float32, piece after piece, so that the halves contain different music.
        fitted_to: the number of vectors that the levels were fitted to, if larger than T.

    Returns the principal components `(T, P)` of the quantized vectors.
    """
    levels, centroids, _ = codebook.centroids.shape
    overfitted = codebook.quantize(vectors)
    if len(vectors) // 2 < centroids or fitted_to >= PLENTY * centroids:
        return overfitted
    truth, halves = codebook.project(vectors), []
    announce = lambda words: advance(f"half a codebook, {words}")  # noqa: E731
    for half, other in zip(vectors.tensor_split(2), truth.tensor_split(2)[::-1], strict=True):
        stages = _fit_levels(other.numpy().copy(), levels, centroids, seed, start, announce)
        halves.append(ResidualCodebook(codebook.mean, codebook.components, stages).quantize(half))
    held_out = torch.cat(halves)
    overfits = (held_out - truth).square().sum() > OVERFIT_RATIO * (overfitted - truth).square().sum()
    return held_out if overfits else overfitted


def _fit_levels(
    residual: np.ndarray,
    levels: int,
    centroids: int,
    seed: int,
    start: ResidualCodebook | None,
    advance: Advance,
) -> torch.Tensor:
    """Return centroids `(L, V, P)` for principal components `(T, P)`, which are overwritten by the last residual."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    stages = []
    for level in range(levels):
        advance(f"level {level + 1} of {levels}")
        init = "random" if start is None else start.centroids[level].numpy()
        options = {"n_init": 1, "max_iter": 15, "tol": 0, "copy_x": False}  # a copy would double the memory
        kmeans = KMeans(centroids, init=init, algorithm="lloyd", random_state=(seed + level) % 2**32, **options)
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # few vectors leave some unused
            kmeans.fit(residual)
        for first in range(0, len(residual), ENCODE_ROWS):
            rows = slice(first, first + ENCODE_ROWS)
            residual[rows] -= kmeans.cluster_centers_[kmeans.labels_[rows]]
        stages.append(kmeans.cluster_centers_)
    return _as_tensor(np.stack(stages))


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
