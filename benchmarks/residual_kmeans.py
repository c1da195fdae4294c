"""Fit the centroids of a residual quantizer with k-means, level by level."""

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning


def fit_centroids(
    vectors: np.ndarray, levels: int, count: int, seed: int, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Return centroids `(L, V, P)` for vectors `(T, P)`, which are overwritten by the residual of the last level.

    `start`: centroids to begin with, instead of vectors chosen by `seed`.
    """
    stages = []
    for level in range(levels):
        init = "random" if start is None else start[level].numpy()
        kmeans = KMeans(count, init=init, n_init=1, max_iter=15, tol=0, random_state=(seed + level) % 2**32)
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # few vectors leave some unused
            vectors -= kmeans.fit(vectors).cluster_centers_[kmeans.labels_]
        stages.append(torch.from_numpy(kmeans.cluster_centers_).float())
    return torch.stack(stages)
