"""Decode the codes of sound into audio while they are made."""

from collections import deque

import numpy as np
import torch

from continuo.audio.decoder import Decoder
from continuo.audio.phase import BLOCK, PhaseStream
from continuo.audio.stereo import Upmix
from continuo.audio.stft import OverlapAdd, spectrum
from continuo.codec.codec import SpectralCodec
from continuo.codec.network import AHEAD, PAST, pad_edges
from continuo.codec.quantizer import WARM_UP
from continuo.codec.vectors import HOP, N_FFT

CANCELLED = 0.1  # power of a mix over that of its channels, below which most of the music has cancelled out
PROMPT_FRAMES = WARM_UP + PAST  # at the end of a prompt from which decoding goes on
TOGETHER = 4 * BLOCK  # frames decoded together: reading the network's weights costs as much as using them


class CodecDecoder(Decoder):
    """Turn codes into audio; `tail` is the end of the prompt, 1 to `PROMPT_FRAMES` frames, or None for silence.

    Shape: tail `(n,)`, or `(n, 2)` for a codec of two channels.
    """

    def __init__(self, codec: SpectralCodec, tail: np.ndarray | None) -> None:
        self.codec, self.channels = codec, codec.channels
        self.steps: list[torch.Tensor] = []  # codes that are not decoded yet
        self.images: deque[np.ndarray] = deque()  # stereo parameters of frames whose phases are not final yet
        last = None  # the last frame of the prompt in each channel, (N_FFT, channels)
        before = np.zeros(N_FFT + (PROMPT_FRAMES - 1) * HOP, np.float32) if tail is None else tail
        quantized = codec.components(codec.encode(spectrum(before, N_FFT, HOP)))
        # components (PAST or PAST + AHEAD, P) of the frames before `steps`; of a short prompt the first one is repeated
        self.recent = pad_edges(quantized, PAST)[-PAST:]
        if tail is not None:
            last = tail[-N_FFT:] if tail.ndim == 2 else np.stack([tail[-N_FFT:]] * self.channels, axis=1)
        self.upmix = Upmix(codec.vectors.image) if codec.channels == 2 else None
        tail_mix = None if last is None else _audible_mix(last)
        self.phase = PhaseStream(N_FFT, HOP, tail=tail_mix, passes=codec.passes)
        tails = [None] * self.channels if last is None else list(last.T)
        self.overlap, *self.other = (OverlapAdd(N_FFT, HOP, tail) for tail in tails)

    def push(self, step: torch.Tensor) -> np.ndarray:
        self.steps.append(step)
        seen = len(self.recent)
        due = TOGETHER if seen == PAST + AHEAD else BLOCK  # the first samples come sooner
        if seen + len(self.steps) < PAST + due + AHEAD:
            return self._samples([np.zeros(0, np.float32)] * self.channels)
        return self._decode(self._components())

    def finish(self) -> np.ndarray:
        components, parts = self._components() if self.steps else self.recent, []
        if len(components) > PAST:
            parts = [self._decode(torch.cat([components, components[-1:].expand(AHEAD, -1)]))]
        parts.append(self._overlapped(self.phase.finish()))
        return np.concatenate([*parts, self._samples([each.finish() for each in (self.overlap, *self.other)])])

    def _components(self) -> torch.Tensor:
        """Return the components of the waiting steps after those before them."""
        new = self.codec.components(torch.stack(self.steps), self.recent[-1])
        self.steps = []
        return torch.cat([self.recent, new])

    def _decode(self, components: torch.Tensor) -> np.ndarray:
        """Return the samples that are final with components `(PAST + n + AHEAD, P)`, and keep the last."""
        self.recent = components[len(components) - PAST - AHEAD :]
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
