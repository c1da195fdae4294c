"""The network that turns decoded components back into spectra, and its loss.

Blocks over time after ConvNeXt (Liu and others, A ConvNet for the 2020s, 2022): a causal depthwise convolution, layer
normalization and two layers for each frame. The network adds to the spectrum that the components stand for what
quantization took from it, also below the floor of the codes. Its loss is that of `continuo.audio.postfilter`: the
squared error, and the distance between statistics of loudness and movement.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from continuo.audio.postfilter import STATISTICS_WEIGHTS, Reanalysis, statistics
from continuo.audio.stft import mel_filters

WIDTH, BLOCKS, KERNEL, EXPANSION = 288, 5, 5, 3
FIRST = 2  # frames before each frame that the first layer sees
AHEAD = 2  # frames after it
PAST = FIRST + BLOCKS * (KERNEL - 1)  # frames before each frame that the network sees: 0.25 s
MEL_BANDS, TOP_HZ = 56, 12_000.0  # of the statistics; the bands above are compared as they are
STATISTICS_FLOOR = 2e-4  # of full scale, added to magnitudes whose movement is compared


class Block(nn.Module):
    """Map `(B, T, W)` to `(B, T - KERNEL + 1, W)`; a new block changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv1d(WIDTH, WIDTH, KERNEL, groups=WIDTH)
        self.ln = nn.LayerNorm(WIDTH)
        self.a, self.b = nn.Linear(WIDTH, EXPANSION * WIDTH), nn.Linear(EXPANSION * WIDTH, WIDTH)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.ln(self.dw(x.transpose(1, 2)).transpose(1, 2))
        return x[:, KERNEL - 1 :] + self.b(F.gelu(self.a(mixed), approximate="tanh"))


class RestorationNetwork(nn.Module):
    """Map components `(B, PAST + T + AHEAD, P)` to corrections `(B, T, F)` of vectors; of a new network they are 0."""

    scale: torch.Tensor

    def __init__(self, components: int, features: int) -> None:
        super().__init__()
        self.inp = nn.Conv1d(components, WIDTH, FIRST + 1 + AHEAD)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.ln, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, features)
        self.register_buffer("scale", torch.ones(()))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, components: torch.Tensor) -> torch.Tensor:
        x = self.inp((components / self.scale).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.out(self.ln(x))


class RestorationLoss:
    """Measure how far restored runs of T frames are from the real ones.

    Args:
        weight: `(F,)`, by which vectors are multiplied: log magnitudes of low bins, of bands, then stereo parameters.
        bins_hz: frequencies of the low bins; `bands` is the number of bands after them.
        floor: of full scale, added to magnitudes before their logarithm is taken.
    """

    def __init__(
        self, weight: torch.Tensor, bins_hz: np.ndarray, bands: int, *, floor: float, n_fft: int, hop: int, run: int
    ) -> None:
        self.weight, self.bins, self.floor = weight, len(bins_hz), floor
        mels = torch.from_numpy(mel_filters(bins_hz, MEL_BANDS, high_hz=TOP_HZ).T.astype(np.float32))
        self.filters = torch.block_diag(mels, torch.eye(bands))
        self.reanalysis = Reanalysis(n_fft, hop, run)

    def __call__(self, made: torch.Tensor, real: torch.Tensor, phases: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of vectors `(B, T, F)`; with phases `(B, T, K)` of the low bins that of what is heard.

        The squared error is that of the vectors either way; the statistics then are those of the overlapped audio.
        """
        ours, theirs = (self._magnitudes(values) for values in (made, real))
        if phases is not None:
            inner = self.reanalysis.inner
            heard = self.reanalysis.magnitudes(ours[..., : self.bins], phases)
            ours, theirs = torch.cat([heard, ours[:, inner, self.bins :]], dim=-1), theirs[:, inner]
        measured = (statistics(magnitudes, self.filters, STATISTICS_FLOOR) for magnitudes in (ours, theirs))
        distances = (weight * (a - b).abs().mean() for weight, a, b in zip(STATISTICS_WEIGHTS, *measured, strict=True))
        return F.mse_loss(made, real) + sum(distances, start=torch.zeros(()))

    def _magnitudes(self, vectors: torch.Tensor) -> torch.Tensor:
        logs = (vectors / self.weight)[..., : len(self.filters)]
        return (logs.clamp(max=4).exp() - self.floor).clamp(min=0)
