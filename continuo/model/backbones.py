"""Backbones mix steps over time, `(B, T, H)` to `(B, T, H)`, causally; their state is an argument and a return value.

For every backbone `forward` over T steps equals T calls of one step, and no step depends on a later one.
"""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from continuo.model.metadata import ConvSection, LstmSection, MlpSection, TransformerSection

State = tuple[Tensor, ...]  # every tensor has the batch as its first axis
ONSET_FEATURES = 4  # learned directions in which an LSTM with onset memory measures increases


class Backbone(nn.Module, ABC):
    """The contract of a backbone. `width` is H."""

    width: int

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state before a piece begins."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Process T steps `(B, T, H)` that follow `state`; return as many and the state after them."""


class Lstm(Backbone):
    """`torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997), with dropout between and after its layers.

    With `onset_memory` N each step also sees the onsets of the last N steps: the increases from one step to the next in
    `ONSET_FEATURES` learned directions. An LSTM alone counts to a beat only roughly, and its tempo wanders.
    """

    def __init__(self, section: LstmSection) -> None:
        super().__init__()
        self.width, self.layers, self.memory = section.hidden, section.layers, section.onset_memory
        between = section.dropout if section.layers > 1 else 0.0
        self.lstm = nn.LSTM(self.width, self.width, self.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(section.dropout)
        if self.memory:
            self.onset_proj = nn.Linear(self.width, ONSET_FEATURES, bias=False)
            self.memory_proj = nn.Linear(ONSET_FEATURES * self.memory, self.width, bias=False)

    def initial_state(self, batch: int) -> State:
        """Return hidden and cell state, `(B, layers, H)`, and the onset features in memory, `(B, N, 4)`."""
        zeros = next(self.lstm.parameters()).new_zeros(batch, self.layers, self.width)
        past = [zeros.new_zeros(batch, self.memory, ONSET_FEATURES)] if self.memory else []
        return zeros, zeros.clone(), *past

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell, *past = state
        if self.memory:
            x, past[0] = self._with_onsets(x, past[0])
        if x.shape[1] == 1 and not self.training:
            out, hidden, cell = self._one_step(x[:, 0], hidden, cell)
            return out[:, None], (hidden, cell, *past)
        hidden, cell = (t.transpose(0, 1).contiguous() for t in (hidden, cell))  # (layers, B, H) for nn.LSTM
        out, (hidden, cell) = self.lstm(x, (hidden, cell))
        return self.dropout(out), (hidden.transpose(0, 1), cell.transpose(0, 1), *past)

    def _with_onsets(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Add the onset features of the last N steps to `x`; return it with the updated features."""
        with torch.autocast(x.device.type, enabled=False):  # differences need all digits
            full = x.float()
            with torch.no_grad():
                features = torch.cat([past, self.onset_proj(full)], dim=1)  # (B, N + T, 4)
                before = features.diff(dim=1)[:, : self.memory]  # up to the first step
            # differences before the projection: what all steps share would leave rounding errors in the gradient
            rises = torch.cat([before, self.onset_proj(full.diff(dim=1))], dim=1).clamp(min=0)
            windows = rises.unfold(1, self.memory, 1).flatten(2)  # (B, T, 4 * N)
        return x + self.memory_proj(windows), features[:, features.shape[1] - self.memory :]

    def _one_step(self, out: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """Compute one step cell by cell: on the CPU `nn.LSTM` packs its weights in every call, which costs more."""
        moved = []
        for *before, weights in zip(hidden.unbind(1), cell.unbind(1), self.lstm.all_weights, strict=True):
            moved.append(torch.lstm_cell(out, before, *weights))
            out = moved[-1][0]
        return out, *(torch.stack(tensors, 1) for tensors in zip(*moved, strict=True))


class CausalConv(Backbone):
    """Residual pre-norm convolutions, each with twice the reach (van den Oord et al., "WaveNet", 2016, but ungated)."""

    def __init__(self, section: ConvSection) -> None:
        super().__init__()
        self.width = section.hidden
        self.pads = [(section.kernel - 1) * 2**layer for layer in range(section.layers)]
        self.parts = nn.ModuleList(DilatedConv(self.width, section.kernel, 2**i) for i in range(section.layers))
        self.dropout = nn.Dropout(section.dropout)

    def initial_state(self, batch: int) -> State:
        """Return the normalized inputs that each layer still needs, `(B, pad, H)`."""
        like = next(self.parameters())
        return tuple(like.new_zeros(batch, pad, self.width) for pad in self.pads)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        moved = []
        for past, part in zip(state, self.parts, strict=True):
            more, steps = part(x, past)
            moved.append(steps[:, steps.shape[1] - past.shape[1] :])
            x = x + self.dropout(more)
        return x, tuple(moved)


class DilatedConv(nn.Module):
    """One layer of `CausalConv`: a convolution with gaps between the steps that it sees."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual of steps `(B, T, H)`, and the normalized steps with `past` `(B, P, H)` before them."""
        h = self.norm(x)
        steps = torch.cat([past.to(h.dtype), h], dim=1)
        return self.out(F.silu(self.mix(steps.transpose(1, 2)).transpose(1, 2))), steps


class WindowMlp(Backbone):
    """A perceptron on the last `window` steps, with separate weights for each; before a piece they are zeros."""

    def __init__(self, section: MlpSection) -> None:
        super().__init__()
        self.width, self.window = section.hidden, section.window
        sizes = [self.window * self.width] + [self.width] * section.layers
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(section.dropout)

    def initial_state(self, batch: int) -> State:
        """Return the steps before the first one, `(B, window - 1, H)`."""
        return (next(self.parameters()).new_zeros(batch, self.window - 1, self.width),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        steps = torch.cat([state[0].to(x.dtype), x], dim=1)
        h = steps.unfold(1, self.window, 1).transpose(2, 3).flatten(2)  # (B, T, window * H), oldest first
        for layer in self.layers:
            h = self.dropout(F.silu(layer(h)))
        return h, (steps[:, steps.shape[1] - self.window + 1 :],)


class Transformer(Backbone):
    """A pre-norm decoder: every step attends to itself and to the `context - 1` steps before it.

    Positions are relative, by rotation of queries and keys (Su et al., "RoFormer", 2021). The state is the cache of
    keys and values; training carries it from window to window as Transformer-XL does (Dai et al., 2019).
    """

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        self.width, self.context, self.heads = section.hidden, section.context, section.heads
        self.blocks = nn.ModuleList(Block(section) for _ in range(section.layers))

    def initial_state(self, batch: int) -> State:
        """Return each layer's keys and values in turn, `(B, context - 1, H)`, and the number of past steps `(B, 1)`."""
        like = next(self.parameters())
        memory = [like.new_zeros(batch, self.context - 1, self.width) for _ in range(2 * len(self.blocks))]
        return (*memory, like.new_zeros(batch, 1))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        *memory, count = state
        past, steps = self.context - 1, x.shape[1]
        here = torch.arange(past, past + steps, device=x.device)[:, None]
        there = torch.arange(past + steps, device=x.device)
        near = (there <= here) & (there > here - self.context)  # (T, past + T)
        allowed = (near & (there >= past - count.view(-1, 1, 1)))[:, None]  # (B, 1, T, past + T)
        angles = rotations(count + torch.arange(steps, device=x.device), self.width // self.heads).to(x.dtype)
        moved: list[Tensor] = []
        for keys, values, block in zip(memory[::2], memory[1::2], self.blocks, strict=True):
            x, keys, values = block(x, keys, values, allowed, angles)
            moved += [keys[:, steps:], values[:, steps:]]
        return x, (*moved, count + steps)


class Block(nn.Module):
    """Attention and a feed-forward layer; each has a normalized input and is added to it."""

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        width, self.heads = section.hidden, section.heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(section.dropout)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, angles: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Process steps `(B, T, H)` after cached values and rotated keys `(B, P, H)`; also return the longer cache."""
        h = self.norm_attention(x)
        k, v = self.keys_values(h).chunk(2, dim=-1)
        k, q = rotated(k, angles), rotated(self.queries(h), angles)
        keys, values = torch.cat([keys.to(k.dtype), k], dim=1), torch.cat([values.to(v.dtype), v], dim=1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, keys, values))  # (B, heads, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.dropout(self.attended(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.outer(F.silu(self.inner(self.norm_forward(x))))), keys, values


def rotations(positions: Tensor, features: int) -> Tensor:
    """Return cosines and signed sines `(2, B, T, 1, features)` of rotary embeddings for positions `(B, T)`, in steps.

    `rotated` turns each pair of features, half of them apart, by an angle of its own. `features`, of one head, is even.
    Source: Su and others, RoFormer, 2021.
    """
    half = features // 2
    angle = positions[..., None, None].float() * 10_000.0 ** (-torch.arange(half, device=positions.device) / half)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate features `(B, T, H)` by their position, head by head."""
    heads = x.unflatten(-1, (-1, angles.shape[-1]))  # (B, T, heads, D)
    return (heads * angles[0] + heads.roll(angles.shape[-1] // 2, -1) * angles[1]).flatten(2)
