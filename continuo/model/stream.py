"""Describe a stream to a model, so that featurizer and model need not know each other."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StreamSpec:
    """The shape of a stream: a matrix with one row per step.

    A categorical stream is (T, L) integers, those of level l below `vocabulary[l]`; a continuous one is (T, F) floats.
    `ranks` are given if a step is an ascending set: all levels share one alphabet, each code has a higher rank than the
    one before it, and the code of the highest rank ends the set and fills the levels after it.
    """

    steps_per_second: float  # of music; their mean if steps are of unequal length
    vocabulary: tuple[int, ...] = ()  # number of classes of each level; empty for a continuous stream
    features: int = 0  # F of a continuous stream; 0 for a categorical one
    vectors: torch.Tensor | None = None  # (L, V, P), if codes have a geometry: a step is the sum of its levels' vectors
    decay: torch.Tensor | None = None  # (P,), if vectors are changes: a step is its vector + decay * the step before
    ranks: torch.Tensor | None = None  # (V,)
    follows: torch.Tensor | None = None  # (V, V) bool, which code (column) may follow which (row); None: any
    opens: torch.Tensor | None = None  # (V,) bool, which codes may begin a piece; None: any
    mean: torch.Tensor | None = None  # (F,), of a continuous stream's training frames, to standardize with
    deviation: torch.Tensor | None = None

    @property
    def levels(self) -> int:
        return len(self.vocabulary)

    @property
    def continuous(self) -> bool:
        return not self.vocabulary
