"""Describe a stream to a model, so that featurizer and model need not know each other."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StreamSpec:
    """The shape of a stream: a matrix with one row per step.

    A categorical stream is (T, L) integers, those of level l below `vocabulary[l]`; a continuous one is (T, F) floats.

    Attributes:
        steps_per_second: rows per second of music; their mean if steps are of unequal length.
        vocabulary: number of classes of each level; empty for a continuous stream.
        features: F of a continuous stream; 0 for a categorical one.
        vectors: (L, V, P), geometry of the codes, if they have one: a step is the sum of its levels' vectors.
        ranks: (V,), if a step is an ascending set: all levels share one alphabet, each code has a higher rank than the
            one before it, and the code of the highest rank ends the set and fills the levels after it.
        follows: (V, V) bool, which code (column) may follow which (row) from step to step; None: any.
        opens: (V,) bool, which codes may begin a piece; None: any.
        mean, deviation: (F,), of a continuous stream's training frames, to standardize with.
    """

    steps_per_second: float
    vocabulary: tuple[int, ...] = ()
    features: int = 0
    vectors: torch.Tensor | None = None
    ranks: torch.Tensor | None = None
    follows: torch.Tensor | None = None
    opens: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    deviation: torch.Tensor | None = None

    @property
    def levels(self) -> int:
        return len(self.vocabulary)

    @property
    def continuous(self) -> bool:
        return not self.vocabulary
