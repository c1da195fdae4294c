"""Decoders turn the steps of a stream into audio while the steps are made."""

from abc import ABC, abstractmethod

import numpy as np
import torch

from continuo.audio.stft import OverlapAdd, from_frames


class Decoder(ABC):
    """Turn steps into samples while they are made; the samples do not depend on how the steps are grouped.

    The output begins `overlap_samples` before the end of the prompt and blends into it. F steps give
    `overlap_samples + F * hop` samples in all.
    """

    overlap: OverlapAdd
    channels = 1  # of the output: samples are `(n,)`, or `(n, 2)` for two

    @property
    def overlap_samples(self) -> int:
        """Return how many samples before the end of the prompt the output begins."""
        return self.overlap.n_fft - self.overlap.hop

    @abstractmethod
    def push(self, step: torch.Tensor) -> np.ndarray:
        """Add one step `(L,)` or `(F,)`; return the samples that are final now, `(n,)` or `(n, 2)`, possibly none."""

    @abstractmethod
    def finish(self) -> np.ndarray:
        """Return the remaining samples."""


class SpectrumDecoder(Decoder):
    """Overlap-add `[magnitude | phase]` frames; `tail` is the end of the prompt `(n_fft,)`, or None for silence."""

    def __init__(self, n_fft: int, hop: int, tail: np.ndarray | None) -> None:
        self.overlap = OverlapAdd(n_fft, hop, tail)

    def push(self, step: torch.Tensor) -> np.ndarray:
        return self.overlap.push(from_frames(step).numpy())

    def finish(self) -> np.ndarray:
        return self.overlap.finish()
