"""Decoders turn the steps of a stream into audio while the steps are made."""

from abc import ABC, abstractmethod
from collections import deque

import numpy as np
import torch

from continuo.audio.codec import SpectralCodec
from continuo.audio.phase import BLOCK, PhaseStream
from continuo.audio.postfilter import pad_edges
from continuo.audio.stereo import Upmix
from continuo.audio.stft import OverlapAdd, from_frames, spectrum

CANCELLED = 0.1  # power of a mix over that of its channels, below which most of the music has cancelled out
TOGETHER = 4 * BLOCK  # frames decoded together: reading the post-filter's weights costs as much as using them


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


class CodebookDecoder(Decoder):
    """Turn codes into audio; `tail` is the end of the prompt, 1 to `codec.prompt_frames` frames, or None for silence.

    Shape: tail `(n,)`, or `(n, 2)` for a codec of two channels.
    """

    def __init__(self, codec: SpectralCodec, tail: np.ndarray | None) -> None:
        n_fft, hop = codec.settings.n_fft, codec.settings.hop
        self.codec, self.channels = codec, codec.channels
        self.steps: list[torch.Tensor] = []  # codes that are not decoded yet
        self.past, self.ahead = codec.past, codec.ahead
        self.recent: torch.Tensor | None = None  # components (past or past + ahead, P) of the frames before them
        self.images: deque[np.ndarray] = deque()  # stereo parameters of frames whose phases are not final yet
        last = None  # the last frame of the prompt in each channel, (n_fft, channels)
        if tail is not None:  # where the prompt is short, its first frame is repeated
            frames = spectrum(tail, n_fft, hop)
            quantized = codec.components(codec.encode(frames))
            self.recent = pad_edges(quantized, self.past)[len(quantized) : self.past + len(quantized)]
            last = tail[-n_fft:] if tail.ndim == 2 else np.stack([tail[-n_fft:]] * self.channels, axis=1)
        self.upmix = Upmix(codec.image) if codec.image and codec.channels == 2 else None
        tail_mix = None if last is None else _audible_mix(last)
        self.phase = PhaseStream(n_fft, hop, tail=tail_mix, passes=codec.passes)
        tails = [None] * self.channels if last is None else list(last.T)
        self.overlap, *self.other = (OverlapAdd(n_fft, hop, tail) for tail in tails)

    def push(self, step: torch.Tensor) -> np.ndarray:
        self.steps.append(step)
        seen = self.past if self.recent is None else len(self.recent)
        due = TOGETHER if seen == self.past + self.ahead else BLOCK  # the first samples come sooner
        if seen + len(self.steps) < self.past + due + self.ahead:
            return self._samples([np.zeros(0, np.float32)] * self.channels)
        return self._decode(self._components())

    def finish(self) -> np.ndarray:
        components, parts = self._components() if self.steps else self.recent, []
        if components is not None and len(components) > self.past:
            parts = [self._decode(torch.cat([components, components[-1:].expand(self.ahead, -1)]))]
        parts.append(self._overlapped(self.phase.finish()))
        return np.concatenate([*parts, self._samples([each.finish() for each in (self.overlap, *self.other)])])

    def _components(self) -> torch.Tensor:
        """Return the components of the waiting steps after those before them; after silence the first is repeated."""
        new = self.codec.components(torch.stack(self.steps), None if self.recent is None else self.recent[-1])
        self.steps = []
        return torch.cat([new[:1].expand(self.past, -1) if self.recent is None else self.recent, new])

    def _decode(self, components: torch.Tensor) -> np.ndarray:
        """Return the samples that are final with components `(past + n + ahead, P)`, and keep the last."""
        self.recent = components[len(components) - self.past - self.ahead :]
        magnitudes, images = self.codec.decode_components(components)
        self.images.extend(images.numpy())
        return np.concatenate([self._overlapped(self.phase.push(row)) for row in magnitudes.numpy()])

    def _overlapped(self, frames: np.ndarray) -> np.ndarray:
        """Return the samples that are final with complex frames `(n, K)`, whose phases are final."""
        images = np.array([self.images.popleft() for _ in frames])
        both = self.upmix.push(frames, images) if self.upmix and len(frames) else [frames] * self.channels
        return self._samples([each.push(part) for each, part in zip((self.overlap, *self.other), both, strict=True)])

    def _samples(self, channels: list[np.ndarray]) -> np.ndarray:
        return channels[0] if self.channels == 1 else np.stack(channels, axis=1)


def _audible_mix(samples: np.ndarray) -> np.ndarray:
    """Return one channel `(n,)` of `(n, C)`: the mean, or the first one where channels out of phase cancel out."""
    mean = samples.mean(axis=1)
    powers = np.square(mean).mean(), np.square(samples).mean()
    return mean if samples.shape[1] == 1 or powers[0] > CANCELLED * powers[1] else samples[:, 0]
