"""Predictive residual vector quantization: each vector is predicted from the one before, and only the rest is coded.

The prediction is the last decoded vector times a decay for each component, at most 0.8: codes hold the change and a
part of the level, so that an error is forgotten after a few steps (Cuperman and Gersho, Vector predictive coding of
speech at 16 kbit/s, 1985). On music that no centroid was fitted to, the error is half of that without prediction, and
it changes slowly instead of flickering.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

ROWS = 4  # runs that are coded together: always as many, since products of other shapes are rounded otherwise
STRETCH = 256  # steps of a piece that are coded together, after `WARM_UP` steps before them
WARM_UP = 48  # steps after which nothing is left of where the prediction began: 0.8 ** 48 is 2e-5


@dataclass(frozen=True)
class PredictiveQuantizer:
    """Hold the centroids `(L, V, P)` of each level, and the decay `(P,)` of the prediction."""

    centroids: torch.Tensor
    decay: torch.Tensor

    @cached_property
    def tables(self) -> np.ndarray:
        """Return what vectors with a 1 after them are multiplied by, `(L, P + 1, V)`; the nearest centroid has least.

        The products are squared distances less the squared length of the vector.
        """
        powers = self.centroids.square().sum(-1, keepdim=True)
        return torch.cat([-2 * self.centroids, powers], dim=-1).transpose(1, 2).contiguous().numpy()

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the codes `(B, T, L)` int64 of B runs of vectors `(B, T, P)`; the prediction of the first is zero."""
        filled = F.pad(vectors, (0, 0, 0, 0, 0, -len(vectors) % ROWS))
        return torch.cat([self._encode(runs) for runs in filled.split(ROWS)])[: len(vectors)]

    def _encode(self, vectors: torch.Tensor) -> torch.Tensor:
        decay, centroids = self.decay.numpy(), self.centroids.numpy()
        targets, codes = vectors.transpose(0, 1).numpy(), np.empty((*vectors.shape[:2], len(centroids)), np.int64)
        rest = np.ones((ROWS, len(decay) + 1), np.float32)  # a 1 stays at the end of each row
        last, scores = np.zeros_like(targets[0]), np.empty((ROWS, centroids.shape[1]), np.float32)
        for t, target in enumerate(targets):
            rest[:, :-1] = target - decay * last
            for level, (points, table) in enumerate(zip(centroids, self.tables, strict=True)):
                nearest = np.dot(rest, table, out=scores).argmin(-1)
                codes[:, t, level] = nearest
                rest[:, :-1] -= points[nearest]
            last = target - rest[:, :-1]
        return torch.from_numpy(codes)

    def encode_stretches(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the codes `(N * STRETCH, L)` of stretches 1 to N of vectors `(N + 1, STRETCH, P)`, coded at once.

        What a stretch becomes depends on itself and on the last `WARM_UP` vectors before it, and on nothing else, so
        that a part of a piece has the codes of the whole.
        """
        return self.encode(torch.cat([vectors[:-1, -WARM_UP:], vectors[1:]], dim=1))[:, WARM_UP:].flatten(0, 1)

    def decode(self, codes: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors `(..., T, P)` of codes `(..., T, L)`, after the decoded vector `before` `(..., P)`."""
        changes = self.centroids[torch.arange(len(self.centroids)), codes].sum(-2)
        last, out = torch.zeros_like(changes[..., 0, :]) if before is None else before, []
        for change in changes.unbind(-2):
            last = self.decay * last + change
            out.append(last)
        return torch.stack(out, dim=-2)
