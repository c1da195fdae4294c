"""Frames of sound as vectors: weighted log magnitudes of bins and of high bands, and the stereo image."""

import itertools

import numpy as np
import torch

from continuo.audio.stereo import BANDS, StereoImage

RATE_HZ, N_FFT, HOP = 44_100, 2816, 704
FLOOR, LOW_FLOOR = 4e-4, 3e-5  # of full scale, added to magnitudes: what is coded, and what the network restores
QUIETEST = 5e-5  # magnitude of what lies below the floor of the codes, before the network
SPLIT_HZ, TOP_HZ = 12_000.0, 20_000.0  # between them only the energy of bands is kept, and above nothing
HIGH_BANDS = 12
IMAGE_WEIGHTS = 3.0, 2.0  # of level differences and of 1 - coherence in the squared error
MAX_LOG = 5.0  # of magnitudes over full scale, so that a wrong code stays finite


class HighBands:
    """Replace the bins above `SPLIT_HZ` by the energies of bands; `unfold` copies their fine structure from below."""

    def __init__(self, bins_hz: np.ndarray) -> None:
        self.start, top = (int(bin_) for bin_ in np.searchsorted(bins_hz, [SPLIT_HZ, TOP_HZ], side="right"))
        edges = np.geomspace(self.start, top, HIGH_BANDS + 1).round().astype(int).tolist()
        self.bands = [slice(*ends) for ends in itertools.pairwise(edges)]
        self.bins, self.stop, half = len(bins_hz), top, self.start // 2
        self.source = half + torch.arange(top - self.start) % (self.start - half)  # bins to copy from

    def fold(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Return the low bins and the root mean square of each band, `(T, F)`, of magnitudes `(T, K)`."""
        bands = [magnitude[:, band].square().mean(1, keepdim=True).sqrt() for band in self.bands]
        return torch.cat([magnitude[:, : self.start], *bands], dim=1)

    def unfold(self, folded: torch.Tensor) -> torch.Tensor:
        """Return magnitudes `(T, K)` of what `fold` returned."""
        magnitude = torch.zeros(len(folded), self.bins)
        magnitude[:, : self.start] = folded[:, : self.start]
        magnitude[:, self.start : self.stop] = folded[:, self.source] + 1e-9
        for number, band in enumerate(self.bands, self.start):
            part = magnitude[:, band]
            part *= folded[:, number, None] / part.square().mean(1, keepdim=True).sqrt()
        return magnitude


class FrameVectors:
    """Turn complex STFT frames into vectors of F = 819 values, and vectors into magnitudes.

    A vector holds log magnitudes (over full scale, plus a floor) of low bins and of bands, and the parameters of a
    `StereoImage`, which are zero for frames of one channel. Bins are weighted by the square root of the mel scale's
    density, 1 / (1 + f / 700 Hz), so that squared errors add up over mels and not over hertz: low partials, which carry
    the harmony, are kept better than hiss. Frames of two channels are reduced to the root of their mean power.
    """

    def __init__(self) -> None:
        self.bins_hz = np.arange(N_FFT // 2 + 1) * RATE_HZ / N_FFT
        self.full_scale = float(torch.hann_window(N_FFT).sum()) / 2  # the magnitude of a sine of amplitude 1
        self.high, self.image = HighBands(self.bins_hz), StereoImage(self.bins_hz)
        self.logs = self.high.start + HIGH_BANDS  # values that are log magnitudes
        density = 1 / (1 + torch.from_numpy(self.bins_hz).float() / 700)
        density = density / density[: self.high.start].mean()
        high = [(density[band].mean() * len(density[band]) ** 0.5).sqrt() for band in self.high.bands]
        stereo = [torch.full((BANDS,), weight) for weight in IMAGE_WEIGHTS]
        self.weight = torch.cat([density[: self.high.start].sqrt(), torch.tensor(high), *stereo])  # (F,)

    def measure(self, frames: torch.Tensor, floor: float) -> torch.Tensor:
        """Return the vectors `(T, F)` of complex frames `(T, K)` or `(T, 2, K)`."""
        magnitude = torch.from_numpy(np.abs(frames.numpy()))  # takes a tenth of the time of torch's abs
        if frames.dim() == 3:
            magnitude = magnitude.square().mean(1).sqrt()
        logs = self.high.fold(magnitude).div_(self.full_scale).add_(floor).log_()
        image = self.image.measure(frames) if frames.dim() == 3 else logs.new_zeros(len(logs), 2 * BANDS)
        return torch.cat([logs, image], dim=1).mul_(self.weight)

    def low_phases(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the phases of the low bins, in radians, of complex frames `(T, K)` or of the sum of two channels'."""
        return (frames if frames.dim() == 2 else frames.sum(1))[:, : self.high.start].angle()

    def magnitudes(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return magnitudes `(T, K)` and stereo parameters `(T, 2 * BANDS)` of vectors `(T, F)` with the low floor."""
        logs, image = (vectors / self.weight).tensor_split([self.logs], dim=1)
        return self.high.unfold((logs.clamp(max=MAX_LOG).exp() - LOW_FLOOR).clamp(min=0) * self.full_scale), image

    def with_low_floor(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return vectors `(..., F)` with the floor of the network in place of that of the codes."""
        return self._with_floor(vectors, FLOOR, LOW_FLOOR, QUIETEST)

    def with_floor(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return vectors `(..., F)` with the floor of the codes in place of that of the network."""
        return self._with_floor(vectors, LOW_FLOOR, FLOOR, 0.0)

    def _with_floor(self, vectors: torch.Tensor, old: float, new: float, least: float) -> torch.Tensor:
        logs, image = (vectors / self.weight).tensor_split([self.logs], dim=-1)
        magnitudes = (logs.clamp(max=MAX_LOG).exp() - old).clamp(min=least)
        return torch.cat([(magnitudes + new).log(), image], dim=-1) * self.weight
