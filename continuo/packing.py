"""Weights as 8-bit integers, packed once, for steps one at a time: there the time goes into reading weights.

Every row of a matrix has its own scale, and inputs are quantised when they come (dynamic quantisation, as torch's
`linear_dynamic` does it). Whole windows, as training and evaluation hear them, go through the plain model.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from continuo.sampling import Sampling, draw

ENGINES = ("x86", "fbgemm", "onednn")  # of torch's quantised products; what others make of them was not tried
LEAST_OUTPUTS = 64  # a matrix of fewer rows is read in no time as it is


def possible(device: torch.device) -> bool:
    """Whether this torch has products of packed matrices that were tried."""
    return device.type == "cpu" and torch.backends.quantized.engine in ENGINES


def pack_matrices(model: nn.Module) -> None:
    """Put a `PackedLinear` in the place of every `nn.Linear` in a model that is large enough."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.out_features >= LEAST_OUTPUTS:
                setattr(module, name, PackedLinear(child.weight, child.bias))


class PackedLinear(nn.Module):
    """`nn.Linear` of weights `(out, in)` and biases `(out,)`, for inputs `(..., in)` in float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        scale = weight.detach().abs().amax(1).clamp(min=1e-12) / 127
        with warnings.catch_warnings():  # that this way of making integers will change in a later torch
            warnings.simplefilter("ignore", UserWarning)
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            rows = torch.quantize_per_channel(weight.detach().contiguous(), scale.double(), zeros, 0, torch.qint8)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # tells device and kind
        self.weights = torch.ops.quantized.linear_prepack(rows, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self.weights)
        return out


class PackedHead(nn.Module):
    """The model's `LevelHead` for levels that refine one another: what a code adds to what is known comes from a table.

    Shape: `vectors` `(L * V, P)` and `known` `(L * V, W)`, level after level; codes are counted on through the levels.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.levels, self.features = head.levels, head.features
        self.inner, self.outer, self.norm_in, self.norm_out = head.inner, head.outer, head.norm_in, head.norm_out
        self.vectors = (head.embedding.vectors * head.embedding.scale).flatten(0, 1)
        self.known = head.known(self.vectors) - head.known(self.vectors.new_zeros(1, self.features))
        self.start = head.known(self.vectors.new_zeros(1, self.features)) + head.level  # (L, W)
        self.first = torch.arange(self.levels) * head.embedding.vectors.shape[1]  # of each level, in the tables
        self.readers = [PackedLinear(matrix.T, None) for matrix in head.out]

    def embed(self, x: torch.Tensor, depths: None = None) -> torch.Tensor:
        """Codes `(B, T, L)` to vectors `(B, T, P)`."""
        return F.embedding(x + self.first, self.vectors).sum(2)

    def logits(self, context: torch.Tensor, level: int) -> torch.Tensor:
        """Context `(B, W)`, with what is known of the step added to it, to the logits `(B, V)` of its next level."""
        h = F.silu(context + self.start[level])
        return self.readers[level](self.norm_out(h + self.outer(F.silu(self.inner(self.norm_in(h))))))

    def knowing(self, context: torch.Tensor, level: int, codes: torch.Tensor) -> torch.Tensor:
        """The context when the codes `(B,)` of a level are known too."""
        return context + F.embedding(codes + self.first[level], self.known)

    def sample(
        self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """As `LevelHead.sample`."""
        codes: list[torch.Tensor] = []
        for level in range(self.levels):
            logits = self.logits(context, level)
            if level == 0 and allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            codes.append(draw(logits, generator, how.temperature * how.of_level(level), how.top_p))
            context = self.knowing(context, level, codes[-1])
        return torch.stack(codes, dim=-1)


class PackedCell:
    """`torch.lstm_cell` with both of its products in one."""

    def __init__(self, inner: torch.Tensor, past: torch.Tensor, bias: torch.Tensor, past_bias: torch.Tensor) -> None:
        self.gates = PackedLinear(torch.cat([inner, past], dim=1), bias + past_bias)

    def __call__(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and state `(B, H)` to the next hidden and cell state."""
        hidden, cell = state
        enter, keep, new, leave = self.gates(torch.cat([x, hidden], dim=-1)).chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell
