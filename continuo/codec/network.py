"""The network that turns decoded components back into spectra.

Blocks over time after ConvNeXt (Liu and others, A ConvNet for the 2020s, 2022): a causal depthwise convolution, layer
normalization and two layers for each frame. The network adds to the spectrum that the components stand for what
quantization took from it, also below the floor of the codes.
"""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, BLOCKS, KERNEL, EXPANSION = 288, 5, 5, 3
FIRST = 2  # frames before each frame that the first layer sees
AHEAD = 2  # frames after it
PAST = FIRST + BLOCKS * (KERNEL - 1)  # frames before each frame that the network sees: 0.25 s


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


def pad_edges(vectors: torch.Tensor, past: int, ahead: int = 0) -> torch.Tensor:
    """Repeat the first of frames `(..., T, P)` `past` times before it, and the last `ahead` times after it."""
    first = vectors[..., :1, :].expand(*vectors.shape[:-2], past, -1)
    last = vectors[..., -1:, :].expand(*vectors.shape[:-2], ahead, -1)
    return torch.cat([first, vectors, last], dim=-2)
