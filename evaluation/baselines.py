"""Two simple models of a stream that do not know what came before the last step; a trained model must beat them.

For categorical streams, `unigram` knows how frequent each code is (add-one smoothing), and `copy_last` repeats the code
of the last step with a probability fitted to each level, or else draws from the unigram. For continuous streams they
are Gaussians of unit deviation, in standardized units, around the mean and around the last step. Those losses are
densities, as are those of the trained model.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from continuo.model.stream import StreamSpec

EM_PASSES = 50  # of expectation-maximization, for one number per level


class Baselines:
    """The two baselines of a stream, fitted to `streams`, `(T, L)` integers each, unless the stream is continuous."""

    def __init__(self, spec: StreamSpec, streams: Sequence[np.ndarray]) -> None:
        self.spec = spec
        if not spec.continuous:
            levels = [[stream[:, level] for stream in streams] for level in range(spec.levels)]
            self.logs = [unigram(columns, size) for columns, size in zip(levels, spec.vocabulary, strict=True)]
            self.same = [_fit_same(columns, logs) for columns, logs in zip(levels, self.logs, strict=True)]

    def nll(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the negative log-likelihoods of steps: `(..., L)` for codes `(..., L)`, `(..., 1)` for `(..., F)`."""
        if self.spec.continuous:
            assert self.spec.mean is not None
            assert self.spec.deviation is not None
            last, now = ((x - self.spec.mean) / self.spec.deviation for x in (inputs, targets))
            return {"unigram": _gaussian_nll(now), "copy_last": _gaussian_nll(now - last)}
        alone, copied = [], []
        for level, (logs, same) in enumerate(zip(self.logs, self.same, strict=True)):
            log = torch.from_numpy(logs)[targets[..., level]]
            alone.append(-log)
            copied.append(-((1 - same) * log.exp() + same * (inputs[..., level] == targets[..., level])).log())
        return {"unigram": torch.stack(alone, -1), "copy_last": torch.stack(copied, -1)}


def unigram(columns: Sequence[np.ndarray], vocabulary: int) -> np.ndarray:
    """Return the logarithms of the frequencies of codes, `(V,)`, with one added to every count.

    >>> np.exp(unigram([np.array([0, 0, 1])], 3)).round(3).tolist()
    [0.5, 0.333, 0.167]
    """
    counts = np.bincount(np.concatenate(columns).astype(np.int64), minlength=vocabulary) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def _fit_same(columns: Sequence[np.ndarray], logs: np.ndarray) -> float:
    """Fit the probability of repeating a code by expectation-maximization; the likelihood has one maximum."""
    before, after = (np.concatenate([column[part] for column in columns]) for part in (np.s_[:-1], np.s_[1:]))
    same, other = before == after, np.exp(logs)[after]
    if not len(same):
        return 0.0
    probability = 0.5
    for _ in range(EM_PASSES):
        repeats = probability * same
        probability = float(np.mean(repeats / (repeats + (1 - probability) * other)))
    return probability


def _gaussian_nll(distance: torch.Tensor) -> torch.Tensor:
    return 0.5 * (distance.square() + math.log(2 * math.pi)).sum(-1, keepdim=True)
