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

ROWS = 16  # runs that are coded together: always as many, since products of other shapes are rounded otherwise
STRETCH = 256  # steps of a piece that are coded together, after `WARM_UP` steps before them
WARM_UP = 48  # steps after which nothing is left of where the prediction began: 0.8 ** 48 is 2e-5


@dataclass(frozen=True)
class PredictiveQuantizer:
    """Hold the centroids `(L, V, P)` of each level, and the decay `(P,)` of the prediction."""

    centroids: torch.Tensor
    decay: torch.Tensor

    @cached_property
    def powers(self) -> np.ndarray:
        """Return the squared length of each centroid, `(L, V)`."""
        return self.centroids.square().sum(-1).numpy()

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the codes `(B, T, L)` int64 of B runs of vectors `(B, T, P)`; the prediction of the first is zero."""
        filled = F.pad(vectors, (0, 0, 0, 0, 0, -len(vectors) % ROWS))
        return torch.cat([self._encode(runs) for runs in filled.split(ROWS)])[: len(vectors)]

    def _encode(self, vectors: torch.Tensor) -> torch.Tensor:
        decay, centroids = self.decay.numpy(), self.centroids.numpy()
        last, codes = np.zeros_like(vectors[:, 0].numpy()), np.empty((*vectors.shape[:2], len(centroids)), np.int64)
        for t, target in enumerate(vectors.transpose(0, 1).numpy()):
            rest = target - decay * last
            for level, (points, powers) in enumerate(zip(centroids, self.powers, strict=True)):
                nearest = (powers - 2 * (rest @ points.T)).argmin(-1)
                codes[:, t, level] = nearest
                rest = rest - points[nearest]
            last = target - rest
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
