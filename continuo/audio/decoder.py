"""Decoders turn the steps of a stream into audio while the steps are made."""

from abc import ABC, abstractmethod

import numpy as np
import torch

from continuo.audio.codec import SpectralCodec
from continuo.audio.phase import BLOCK, PhaseStream
from continuo.audio.postfilter import AHEAD, PAST, pad_edges
from continuo.audio.stft import OverlapAdd, from_frames, spectrum

TOGETHER = 4 * BLOCK  # frames decoded together: reading the post-filter's weights costs as much as using them


class Decoder(ABC):
    """Turn steps into samples while they are made; the samples do not depend on how the steps are grouped.

    The output begins `overlap_samples` before the end of the prompt and blends into it. F steps give
    `overlap_samples + F * hop` samples in all.
    """

    overlap: OverlapAdd

    @property
    def overlap_samples(self) -> int:
        """Return how many samples before the end of the prompt the output begins."""
        return self.overlap.n_fft - self.overlap.hop

    @abstractmethod
    def push(self, step: torch.Tensor) -> np.ndarray:
        """Add one step `(L,)` or `(F,)` and return the samples that are final now, float32, possibly none."""

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


class CodebookDecoder(Decoder):
    """Turn codes into audio; `tail` is the end of the prompt, 1 to `PAST` whole frames, or None for silence."""

    def __init__(self, codec: SpectralCodec, tail: np.ndarray | None) -> None:
        n_fft, hop = codec.settings.n_fft, codec.settings.hop
        last = None if tail is None else tail[-n_fft:]
        self.codec = codec
        self.phase = PhaseStream(n_fft, hop, tail=last)
        self.overlap = OverlapAdd(n_fft, hop, last)
        self.steps: list[torch.Tensor] = []  # codes that are not decoded yet
        self.recent: torch.Tensor | None = None  # components (PAST or PAST + AHEAD, P) of the frames before them
        if tail is not None:  # where the prompt is short, its first frame is repeated
            quantized = codec.codebook.dequantize(codec.encode(spectrum(tail, n_fft, hop)))
            self.recent = pad_edges(quantized)[len(quantized) : PAST + len(quantized)]

    def push(self, step: torch.Tensor) -> np.ndarray:
        self.steps.append(step)
        seen = PAST if self.recent is None else len(self.recent)
        due = TOGETHER if seen == PAST + AHEAD else BLOCK  # the first samples come sooner
        if seen + len(self.steps) < PAST + due + AHEAD:
            return np.zeros(0, np.float32)
        return self._decode(self._components())

    def finish(self) -> np.ndarray:
        components, rest = self._components() if self.steps else self.recent, np.zeros(0, np.float32)
        if components is not None and len(components) > PAST:
            rest = self._decode(torch.cat([components, components[-1:].expand(AHEAD, -1)]))
        return np.concatenate([rest, self.overlap.push(self.phase.finish()), self.overlap.finish()])

    def _components(self) -> torch.Tensor:
        """Return the components of the waiting steps after those before them; after silence the first is repeated."""
        new = self.codec.codebook.dequantize(torch.stack(self.steps))
        self.steps = []
        return torch.cat([new[:1].expand(PAST, -1) if self.recent is None else self.recent, new])

    def _decode(self, components: torch.Tensor) -> np.ndarray:
        """Return the samples that are final with components `(PAST + n + AHEAD, P)`, and keep the last."""
        self.recent = components[len(components) - PAST - AHEAD :]
        magnitudes = self.codec.decode_components(components).numpy()
        return np.concatenate([self.overlap.push(self.phase.push(row)) for row in magnitudes])
