"""The stereo image of a frame: how two channels differ in level and how alike they are, in bands of frequency.

Magnitudes that both channels share and these parameters make two channels again (Breebaart, van de Par, Kohlrausch and
Schuijers, Parametric coding of stereo audio, 2005). The shared magnitude of a bin is the root of the mean power of both
channels, so nothing is lost where they are out of phase.
"""

import numpy as np
import scipy.special
import torch

BANDS = 20
MAX_LEVEL = 3.5  # nats of amplitude (30 dB) by which one channel is louder than the other, at most
KEPT = 0.5  # fraction of the last frame's parameters in the next one's, which removes the flicker of quantization
SWING_HZ = 313.0  # period over frequency of the phases that make channels unlike; a delay of 3 ms at most
TURNED = 0.3  # coherence below 0 from which on the channels have opposite phases
ARGUMENTS = np.linspace(0, 2.4048, 200)  # up to the first zero of J0
BESSEL = scipy.special.j0(ARGUMENTS)


class StereoImage:
    """Measure and apply the stereo parameters of frames of K bins at frequencies `bins_hz`.

    The parameters of a frame are `BANDS` level differences, ln(left / right) in nats of amplitude, then `BANDS` values
    of 1 - coherence, from 0 (equal phases) over 1 (unrelated) to 2 (opposite phases).
    """

    def __init__(self, bins_hz: np.ndarray) -> None:
        self.bins_hz = bins_hz
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
    """Turn frames of the shared magnitudes into frames of both channels, in the order of time.

    Levels are exact in every bin. Channels become less alike by phases: in one channel they are moved by
    `spread * sin(2 pi f / SWING_HZ)`, and in the other by the opposite, as a short all-pass filter would. Over a band
    the coherence is then the Bessel function J0(2 spread). Below a coherence of 0 the channels also turn away from each
    other, until they have opposite phases.
    """

    def __init__(self, image: StereoImage) -> None:
        self.band = image.band.numpy()
        self.swing = np.sin(2 * np.pi * image.bins_hz / SWING_HZ).astype(np.float32)
        self.parameters: np.ndarray | None = None  # of the last frame

    def push(self, frames: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        """Return complex frames `(2, n, K)` for shared frames `(n, K)` and their parameters `(n, 2 * BANDS)`."""
        smooth = np.empty_like(parameters)
        for row, new in zip(smooth, parameters, strict=True):
            row[:] = self.parameters = new if self.parameters is None else KEPT * self.parameters + (1 - KEPT) * new
        ratio = np.exp(2 * smooth[:, :BANDS])  # of powers
        coherence = np.clip(1 - smooth[:, BANDS:], -1, 1)
        spread = np.interp(-np.abs(coherence), -BESSEL, ARGUMENTS).astype(np.float32) / 2
        turn = np.pi / 2 * np.clip(-coherence / TURNED, 0, 1)
        shift = spread[:, self.band] * self.swing + turn[:, self.band]
        phasor = np.exp(1j * shift).astype(np.complex64)
        gains = (np.sqrt(2 * share / (1 + ratio))[:, self.band] for share in (ratio, 1))
        return np.stack([gain * frames * side for gain, side in zip(gains, (phasor, phasor.conj()), strict=True)])
