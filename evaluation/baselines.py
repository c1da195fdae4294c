"""What a stream costs without any model of time: the figures that a trained model must beat.

Categorical streams: `unigram` knows how frequent each code is (add-one smoothing), and nothing of what came before;
`copy_last` says "the same code as in the last step" with a probability fitted for each level on training music, and
falls back on the unigram. Continuous streams: Gaussians of unit deviation, in standardised units, around the mean
(called `unigram`) and around the last step (`copy_last`); these are densities, as the nats of the model are.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from continuo.model.stream import StreamSpec

PASSES = 50  # of expectation-maximisation, for one number per level


class Baselines:
    """The two baselines of a stream.

    Args:
        spec: of the stream.
        streams: of training pieces, `(T, L)` integers each; unused for a continuous stream.
    """

    def __init__(self, spec: StreamSpec, streams: Iterable[np.ndarray]) -> None:
        self.spec = spec
        if not spec.continuous:
            kept = [np.asarray(stream) for stream in streams]
            self.logs = [unigram([stream[:, level] for stream in kept], v) for level, v in enumerate(spec.vocabulary)]
            self.same = [self._fit_same([stream[:, level] for stream in kept], level) for level in range(spec.levels)]

    def _fit_same(self, columns: Sequence[np.ndarray], level: int) -> float:
        """The probability of "as before" under which training steps are likeliest, by expectation-maximisation.

        The likelihood is concave in it, so that the passes climb to the one maximum.
        """
        before, after = (np.concatenate([column[part] for column in columns]) for part in (np.s_[:-1], np.s_[1:]))
        same, other = before == after, np.exp(self.logs[level])[after]
        share = 0.5
        for _ in range(PASSES):
            share = float(np.mean(share * same / (share * same + (1 - share) * other))) if len(same) else 0.0
        return share

    def nll(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Negative log-likelihood by step and level: `(..., L)` for `(..., L)`, `(..., 1)` for `(..., F)`."""
        if self.spec.continuous:
            assert self.spec.mean is not None
            assert self.spec.deviation is not None
            last, now = ((x - self.spec.mean) / self.spec.deviation for x in (inputs, targets))
            return {"unigram": _gaussian(now), "copy_last": _gaussian(now - last)}
        alone, copied = [], []
        for level, (logs, same) in enumerate(zip(self.logs, self.same, strict=True)):
            log = torch.from_numpy(logs)[targets[..., level]]
            alone.append(-log)
            copied.append(-((1 - same) * log.exp() + same * (inputs[..., level] == targets[..., level])).log())
        return {"unigram": torch.stack(alone, -1), "copy_last": torch.stack(copied, -1)}


def unigram(columns: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """Logarithms of the smoothed frequencies of the codes, `(V,)`: one is added to every count.

    >>> np.exp(unigram([np.array([0, 0, 1])], 3)).round(3).tolist()
    [0.5, 0.333, 0.167]
    """
    counts = np.bincount(np.concatenate(columns).astype(np.int64), minlength=vocabulary) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def _gaussian(distance: torch.Tensor) -> torch.Tensor:
    return 0.5 * (distance.square() + math.log(2 * math.pi)).sum(-1, keepdim=True)
