"""The stereo image of a frame: how two channels differ in level and how alike they are, in bands of frequency.

Magnitudes that both channels share, these parameters and a decorrelated copy of the signal make two channels again
(Breebaart, van de Par, Kohlrausch and Schuijers, Parametric coding of stereo audio, 2005). The shared magnitude of a
bin is the root of the mean power of both channels, so nothing is lost where they are out of phase.
"""

import math
from collections import deque

import numpy as np
import torch

BANDS = 20
MAX_LEVEL = 3.5  # nats of amplitude (30 dB) by which one channel is louder than the other, at most
DELAY = 2  # frames by which the phases of the decorrelated copy lag
KEPT = 0.6  # fraction of the last frame's parameters in the next one's, which removes the flicker of quantization


class StereoImage:
    """Measure and apply the stereo parameters of frames of K bins at frequencies `bins_hz`.

    The parameters of a frame are `BANDS` level differences, ln(left / right) in nats of amplitude, then `BANDS` values
    of 1 - coherence, from 0 (equal phases) over 1 (unrelated) to 2 (opposite phases).
    """

    def __init__(self, bins_hz: np.ndarray) -> None:
        mels = 2595 * np.log10(1 + bins_hz / 700)
        self.band = torch.from_numpy(np.minimum((mels / mels[-1] * BANDS).astype(np.int64), BANDS - 1))  # of each bin
        self.sums = torch.nn.functional.one_hot(self.band, BANDS).float()  # (K, BANDS)

    def measure(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the parameters `(T, 2 * BANDS)` of complex frames of both channels `(T, 2, K)`."""
        left, right = frames[:, 0], frames[:, 1]
        powers = (frames.abs().square() @ self.sums).clamp(min=1e-12)  # (T, 2, BANDS)
        level = (powers[:, 0] / powers[:, 1]).log() / 2
        coherence = ((left * right.conj()).real @ self.sums) / (powers[:, 0] * powers[:, 1]).sqrt()
        quiet = powers.sum(1) < 1e-11  # nothing sounds: the image is the middle
        level = level.clamp(-MAX_LEVEL, MAX_LEVEL).masked_fill(quiet, 0)
        return torch.cat([level, (1 - coherence).masked_fill(quiet, 0)], dim=1)


class Upmix:
    """Turn frames of the shared magnitudes into frames of both channels, in the order of time."""

    def __init__(self, image: StereoImage, frames: np.ndarray | None = None) -> None:
        """Continue from the last complex frames `(n, K)` of the prompt, if any."""
        self.band = image.band.numpy()
        turns = np.random.default_rng(0).uniform(0, 2 * math.pi, BANDS)  # of the decorrelated copy, by band
        self.turn = np.exp(1j * turns)[self.band].astype(np.complex64)
        self.before = deque(() if frames is None else frames[-DELAY:], DELAY)
        self.parameters: np.ndarray | None = None

    def push(self, frames: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        """Return complex frames `(2, n, K)` for shared frames `(n, K)` and their parameters `(n, 2 * BANDS)`."""
        made = np.empty((2, *frames.shape), np.complex64)
        for t, (frame, new) in enumerate(zip(frames, parameters, strict=True)):
            old = new if self.parameters is None else self.parameters
            self.parameters = KEPT * old + (1 - KEPT) * new
            ratio = np.exp(2 * self.parameters[:BANDS])  # of powers
            angle = np.arccos(np.clip(1 - self.parameters[BANDS:], -1, 1)) / 2
            gains = np.sqrt(2 * ratio / (1 + ratio)), np.sqrt(2 / (1 + ratio))
            copy = np.abs(frame) * self.turn * _direction(self.before[0] if len(self.before) == DELAY else frame)
            both = (np.cos(angle)[self.band] * frame, np.sin(angle)[self.band] * copy)
            made[0, t] = gains[0][self.band] * (both[0] + both[1])
            made[1, t] = gains[1][self.band] * (both[0] - both[1])
            self.before.append(frame)
        return made


def _direction(frame: np.ndarray) -> np.ndarray:
    """Return unit phasors with the phases of a complex frame."""
    size = np.abs(frame)
    return np.where(size > 0, frame / np.maximum(size, 1e-20), 1).astype(np.complex64)
