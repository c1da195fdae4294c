"""Models: a backbone over time and a head over the levels of a step.

    stream -> embedding -> backbone (over T) -> context -> head (over L) -> next step

`SequenceModel` is the contract: `forward(x, state) -> (context, state)` with the state as an argument and a return
value; `step` is `forward` of one step; `nats` scores the next steps, `sample` draws one. After every step a piece may
end (`ends`); a piece begins with a step that nothing came before (`opening`). For every backbone forward
equals the concatenated steps, and the future never changes the past. A backbone is one entry of `MODELS`; whether a
stream is categorical or continuous decides the head.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from continuo.model.metadata import Architecture, ConvSection, LstmSection, MlpSection, TransformerSection
from continuo.model.sampling import Sampling, draw
from continuo.model.stream import StreamSpec

State = tuple[torch.Tensor, ...]  # every tensor has the batch first
UNSEEN = 0.1  # occurrences that a code counts as having had before the first
ONSETS = 4  # directions in which an LSTM with a memory of onsets hears something rise
RARE = -7.0  # logit of a piece's end before anything is learned: once in a thousand steps


class Backbone(nn.Module, ABC):
    """Mixes steps over time: `(B, T, H)` to `(B, T, H)`, causal. `width` is H."""

    width: int

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before a piece begins."""

    @abstractmethod
    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """T steps on from `state`."""


class Lstm(Backbone):
    """`torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997), with dropout between and after its layers.

    With `onset_memory` N it also hears the last N steps' onsets, each at its distance: what rose from one step to the
    next in `ONSETS` learned directions. An LSTM alone counts to a beat, or several, roughly: its tempo wanders.
    """

    def __init__(self, section: LstmSection) -> None:
        super().__init__()
        self.width, self.layers, self.memory = section.hidden, section.layers, section.onset_memory
        between = section.dropout if section.layers > 1 else 0.0
        self.lstm = nn.LSTM(self.width, self.width, self.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(section.dropout)
        if self.memory:
            self.listen = nn.Linear(self.width, ONSETS, bias=False)
            self.recall = nn.Linear(ONSETS * self.memory, self.width, bias=False)

    def initial_state(self, batch: int) -> State:
        """Hidden and cell state, `(B, layers, H)`, and with a memory what it listened to, `(B, N, ONSETS)`."""
        zeros = next(self.lstm.parameters()).new_zeros(batch, self.layers, self.width)
        past = [zeros.new_zeros(batch, self.memory, ONSETS)] if self.memory else []
        return zeros, zeros.clone(), *past

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        before, past = state[:2], state[2:]
        if self.memory:
            x, heard = self._with_onsets(x, *past)
            past = (heard,)
        if x.shape[1] == 1 and not self.training:
            out, after = self._one_step(x, before)
            return out, (*after, *past)
        hidden, cell = (tensor.transpose(0, 1).contiguous() for tensor in before)  # (layers, B, H) for nn.LSTM
        out, (hidden, cell) = self.lstm(x, (hidden, cell))
        return self.dropout(out), (hidden.transpose(0, 1), cell.transpose(0, 1), *past)

    def _with_onsets(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps with what rose up to each of them, and what was listened to in the last N.

        Differences are taken before anything is listened to: what x has in common from step to step would leave its
        rounding errors in their gradient.
        """
        with torch.autocast(x.device.type, enabled=False):  # differences need the digits
            full = x.float()
            with torch.no_grad():
                heard = torch.cat([past, self.listen(full)], dim=1)  # (B, N + T, ONSETS)
                before = heard.diff(dim=1)[:, : self.memory]  # up to the first step
            rises = torch.cat([before, self.listen(full.diff(dim=1))], dim=1).clamp(min=0)
            windows = rises.unfold(1, self.memory, 1).flatten(2)  # (B, T, ONSETS * N)
        return x + self.recall(windows), heard[:, heard.shape[1] - self.memory :]

    def _one_step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """The same, cell by cell: on the CPU `nn.LSTM` packs its weights anew in every call, which costs more."""
        out, moved = x[:, 0], []
        for hidden, cell, weights in zip(state[0].unbind(1), state[1].unbind(1), self.lstm.all_weights, strict=True):
            out, cell = torch.lstm_cell(out, (hidden, cell), *weights)
            moved.append((out, cell))
        hidden, cell = (torch.stack(tensors, 1) for tensors in zip(*moved, strict=True))
        return out[:, None], (hidden, cell)


class CausalConv(Backbone):
    """Residual convolutions over past steps, each layer looking twice as far back as the one before.

    Source: van den Oord et al., "WaveNet" (2016), without its gates; pre-norm. `reach` steps are seen in all.
    """

    def __init__(self, section: ConvSection) -> None:
        super().__init__()
        self.width = section.hidden
        self.pads = [(section.kernel - 1) * 2**layer for layer in range(section.layers)]
        self.reach = 1 + sum(self.pads)
        self.parts = nn.ModuleList(Dilated(self.width, section.kernel, 2**layer) for layer in range(section.layers))
        self.dropout = nn.Dropout(section.dropout)

    def initial_state(self, batch: int) -> State:
        like = next(self.parameters())
        return tuple(like.new_zeros(batch, pad, self.width) for pad in self.pads)

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        moved = []
        for past, part in zip(state, self.parts, strict=True):
            more, heard = part(x, past)
            moved.append(heard[:, heard.shape[1] - past.shape[1] :])
            x = x + self.dropout(more)
        return x, tuple(moved)


class Dilated(nn.Module):
    """One layer of `CausalConv`: a convolution with holes between the steps that it sees."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps `(B, T, H)` after normalised ones `(B, P, H)` to what is added to them, and to both, normalised."""
        h = self.norm(x)
        heard = torch.cat([past.to(h.dtype), h], dim=1)
        return self.out(F.silu(self.mix(heard.transpose(1, 2)).transpose(1, 2))), heard


class WindowMlp(Backbone):
    """A perceptron on the last `window` steps, each step with weights of its own; silence before the piece begins."""

    def __init__(self, section: MlpSection) -> None:
        super().__init__()
        self.width, self.window = section.hidden, section.window
        sizes = [self.window * self.width] + [self.width] * section.layers
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(section.dropout)

    def initial_state(self, batch: int) -> State:
        return (next(self.parameters()).new_zeros(batch, self.window - 1, self.width),)

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        heard = torch.cat([state[0].to(x.dtype), x], dim=1)
        h = heard.unfold(1, self.window, 1).transpose(2, 3).flatten(2)  # (B, T, window * H), oldest first
        for layer in self.layers:
            h = self.dropout(F.silu(layer(h)))
        return h, (heard[:, heard.shape[1] - self.window + 1 :],)


class Transformer(Backbone):
    """A pre-norm decoder: every step attends to itself and to the `context - 1` steps before it.

    Positions are relative, by rotation of queries and keys (Su et al., "RoFormer", 2021). The state is the cache of
    keys and values: training carries it from window to window as Transformer-XL does (Dai et al., 2019), and generation
    steps with it.
    """

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        self.width, self.context, self.heads = section.hidden, section.context, section.heads
        self.blocks = nn.ModuleList(Block(section) for _ in range(section.layers))

    def initial_state(self, batch: int) -> State:
        """Keys and values of each layer in turn, `(B, context - 1, H)`, and the number of steps heard, `(B, 1)`."""
        like = next(self.parameters())
        memory = [like.new_zeros(batch, self.context - 1, self.width) for _ in range(2 * len(self.blocks))]
        return (*memory, like.new_zeros(batch, 1))

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        *memory, heard = state
        past, steps = self.context - 1, x.shape[1]
        here = torch.arange(past, past + steps, device=x.device)[:, None]
        there = torch.arange(past + steps, device=x.device)
        near = (there <= here) & (there > here - self.context)  # (T, past + T)
        allowed = (near & (there >= past - heard.view(-1, 1, 1)))[:, None]  # (B, 1, T, past + T)
        turns = rotations(heard + torch.arange(steps, device=x.device), self.width // self.heads).to(x.dtype)
        moved: list[torch.Tensor] = []
        for keys, values, block in zip(memory[::2], memory[1::2], self.blocks, strict=True):
            x, keys, values = block(x, keys, values, allowed, turns)
            moved += [keys[:, steps:], values[:, steps:]]
        return x, (*moved, heard + steps)


class Block(nn.Module):
    """Attention and a feed-forward layer, each on a normalised input and added to it."""

    def __init__(self, section: TransformerSection) -> None:
        super().__init__()
        width = section.hidden
        self.heads = section.heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(section.dropout)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, allowed: torch.Tensor, turns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Steps `(B, T, H)` with the keys and values before them `(B, P, H)`; returns the latter with these added.

        Keys are kept turned by their position.
        """
        h = self.norm_attention(x)
        k, v = self.keys_values(h).chunk(2, dim=-1)
        k = rotated(k, turns)
        keys, values = torch.cat([keys.to(k.dtype), k], dim=1), torch.cat([values.to(v.dtype), v], dim=1)
        split = lambda tensor: tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731  (B, heads, T, D)
        q = rotated(self.queries(h), turns)
        mixed = F.scaled_dot_product_attention(split(q), split(keys), split(values), attn_mask=allowed)
        x = x + self.dropout(self.attended(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.outer(F.silu(self.inner(self.norm_forward(x))))), keys, values


def rotations(positions: torch.Tensor, features: int) -> torch.Tensor:
    """Cosines and sines `(2, B, T, 1, features)` of angles that grow with positions `(B, T)`; features are even.

    The sines have the signs that turn a pair (a, b) to (a cos - b sin, b cos + a sin), b being half the features away.
    """
    half = features // 2
    turn = 10_000.0 ** (-torch.arange(half, device=positions.device) / half)
    angle = positions[..., None, None].float() * turn
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Features `(B, T, H)` turned by their position, head by head."""
    heads = x.unflatten(-1, (-1, turns.shape[-1]))  # (B, T, heads, D)
    return (heads * turns[0] + heads.roll(turns.shape[-1] // 2, -1) * turns[1]).flatten(2)


class CodeEmbedding(nn.Module):
    """A categorical step is the sum of its levels' vectors, coarsest first.

    The vectors are the stream's own geometry where it has one (fixed, scaled to unit deviation), else learned.
    """

    vectors: torch.Tensor
    level: torch.Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        if spec.vectors is not None:
            self.register_buffer("vectors", spec.vectors / spec.vectors[0].std())
        else:
            self.vectors = nn.Parameter(torch.randn(spec.levels, max(spec.vocabulary), width) / math.sqrt(width))
        self.scale = 1.0 if spec.vectors is not None else math.sqrt(width)
        self.width = self.vectors.shape[-1]
        self.register_buffer("level", torch.arange(spec.levels), persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, T, L)` to partial sums `(L, B, T, P)`: entry l holds levels 0 to l."""
        return self.vectors[self.level[:, None, None], codes.permute(2, 0, 1)].cumsum(0) * self.scale

    def of(self, level: int, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B,)` of one level to vectors `(B, P)`."""
        return self.vectors[level, codes] * self.scale


class CodeHead(nn.Module):
    """What heads over codes share: context and what is known of the step so far meet in one residual block."""

    def __init__(self, features: int, width: int, levels: int) -> None:
        super().__init__()
        self.features, self.levels = features, levels
        self.known = nn.Linear(features, width)
        self.level = nn.Parameter(torch.randn(levels, width) * 0.02)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)

    def mixed(self, context: torch.Tensor, known: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Context, partial sums and level vectors that broadcast to `(..., W)`, to what logits are read from."""
        h = F.silu(context + self.known(known) + level)
        h = h + self.outer(F.silu(self.inner(self.norm_in(h))))
        return self.norm_out(h)


class LevelHead(CodeHead):
    """p(step | context), level after level: a softmax over level l given the context and the levels before l.

    The levels share one residual block; what is known of the step so far enters as the sum of its vectors. Vectors that
    are learned are also what logits are read with (Press and Wolf, "Using the output embedding", 2017).
    """

    unused: torch.Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        embedding = CodeEmbedding(spec, width)
        super().__init__(embedding.width, width, spec.levels)
        self.embedding = embedding
        self.refining = spec.vectors is not None  # later levels refine the first one, and are no music of their own
        if self.refining:
            self.out = nn.Parameter(torch.randn(spec.levels, width, max(spec.vocabulary)) / math.sqrt(width))
        else:
            self.bias = nn.Parameter(torch.zeros(spec.levels, max(spec.vocabulary)))
        unused = torch.arange(max(spec.vocabulary)) >= torch.tensor(spec.vocabulary)[:, None]  # (L, V)
        self.register_buffer("unused", unused, persistent=False)
        self.narrow = len(set(spec.vocabulary)) > 1

    def depths(self, lanes: int, steps: int, coarse_share: float) -> torch.Tensor | None:
        """Draw the last level that is heard of each step, `(B, T)`: of a share of the lanes only the first levels are.

        That keeps the model from leaning on fine detail which its own samples will not repeat. None: all are heard.
        """
        if coarse_share == 0 or self.levels == 1:
            return None
        last = torch.randint(self.levels, (lanes, steps), device=self.level.device)
        whole = torch.rand(lanes, 1, device=self.level.device) >= coarse_share
        return last.masked_fill(whole, self.levels - 1)

    def embed(self, x: torch.Tensor, depths: torch.Tensor | None = None) -> torch.Tensor:
        """Codes `(B, T, L)` to vectors `(B, T, P)`, of each step the levels up to `depths` `(B, T)`."""
        sums = self.embedding(x)
        if depths is None:
            return sums[-1]
        return sums.gather(0, depths[None, ..., None].expand(1, -1, -1, self.features))[0]

    def logits(self, context: torch.Tensor, known: torch.Tensor, levels: slice) -> torch.Tensor:
        """Context `(N, W)` and partial sums `(L', N, P)` of the levels before, to logits `(L', N, V)`."""
        mixed = self.mixed(context, known, self.level[levels, None])
        if self.refining:
            logits = torch.bmm(mixed, self.out[levels])
        else:
            logits = torch.baddbmm(self.bias[levels, None], mixed, self.embedding.vectors[levels].transpose(1, 2))
        return logits.masked_fill(self.unused[levels, None], -torch.inf) if self.narrow else logits

    def nll(self, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood by level: context `(B, T, W)` and target `(B, T, L)` to `(B, T, L)`."""
        known = F.pad(self.embedding(target)[:-1], (0, 0, 0, 0, 0, 0, 1, 0))  # level l knows the levels before it
        logits = self.logits(context.flatten(0, 1), known.flatten(1, 2), slice(None))  # (L, B * T, V)
        classes = target.permute(2, 0, 1).flatten()
        nats = F.cross_entropy(logits.float().flatten(0, 1), classes, reduction="none")
        return nats.view(self.levels, *target.shape[:2]).permute(1, 2, 0)

    def temperature(self, how: Sampling, level: int) -> float:
        """That of a level: a refined one and those that refine it have their own."""
        return how.temperature * (how.of_level(level) if self.refining else 1.0)

    def sample(
        self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """Context `(B, W)` to a step `(B, L)`."""
        known = context.new_zeros(1, len(context), self.features)
        codes = []
        for level in range(self.levels):
            logits = self.logits(context, known, slice(level, level + 1))[0]
            if level == 0 and allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            codes.append(draw(logits, generator, self.temperature(how, level), how.top_p))
            known = known + self.embedding.of(level, codes[-1])
        return torch.stack(codes, dim=-1)


class SetHead(CodeHead):
    """p(step | context) where a step is a set: its codes one after another in ascending order, then a stop.

    The levels share one alphabet. What may not follow has probability 0, so that every set has one way to be drawn, and
    what comes after a stop costs nothing. Source: the factorisation is that of RNN-NADE (Boulanger-Lewandowski et al.,
    2012), over the notes that sound instead of over all notes.
    """

    ranks: torch.Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__(width, width, spec.levels)
        assert spec.ranks is not None
        self.register_buffer("ranks", spec.ranks.clone(), persistent=False)
        self.stop = int(spec.ranks.argmax())
        self.vectors = nn.Parameter(torch.randn(len(spec.ranks), width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(len(spec.ranks)))

    def of(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(...)` to vectors `(..., W)`; a stop is nothing."""
        vectors = F.embedding(codes, self.vectors) * math.sqrt(self.features)
        return vectors.masked_fill((codes == self.stop)[..., None], 0.0)

    def embed(self, x: torch.Tensor, depths: torch.Tensor | None = None) -> torch.Tensor:
        """Sets `(B, T, L)` to the sums of their vectors `(B, T, W)`; a set has no levels to leave out."""
        return self.of(x).sum(2)

    def logits(
        self, context: torch.Tensor, known: torch.Tensor, level: torch.Tensor, last: torch.Tensor | None
    ) -> torch.Tensor:
        """Context and partial sums `(N, W)`, level vectors `(N, W)` and the codes before `(N,)`, to logits `(N, V)`."""
        logits = F.linear(self.mixed(context, known, level), self.vectors, self.bias)
        if last is None:
            return logits
        lower = self.ranks <= self.ranks[last][:, None]
        lower[:, self.stop] = False
        return logits.masked_fill(lower, -torch.inf)

    def nll(self, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood by level: context `(B, T, W)` and target `(B, T, L)` to `(B, T, L)`."""
        known = F.pad(self.of(target).cumsum(2)[:, :, :-1], (0, 0, 1, 0))
        nats = context.new_zeros(target.shape, dtype=torch.float32)
        first = self.logits(context.flatten(0, 1), known[:, :, 0].flatten(0, 1), self.level[0], None)
        nats[..., 0] = F.cross_entropy(first.float(), target[..., 0].flatten(), reduction="none").view(target.shape[:2])
        lane, step, level = (target[:, :, :-1] != self.stop).nonzero(as_tuple=True)  # places with a code before them
        here = self.logits(
            context[lane, step], known[lane, step, level + 1], self.level[level + 1], target[lane, step, level]
        )
        rest = F.cross_entropy(here.float(), target[lane, step, level + 1], reduction="none")
        return nats.index_put((lane, step, level + 1), rest)

    def sample(
        self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """Context `(B, W)` to a step `(B, L)`."""
        known = torch.zeros_like(context)
        codes: list[torch.Tensor] = []
        for level in range(self.levels):
            logits = self.logits(context, known, self.level[level], codes[-1] if codes else None)
            codes.append(draw(logits, generator, how.temperature, how.top_p))
            known = known + self.of(codes[-1])
        return torch.stack(codes, dim=-1)


class RegressionHead(nn.Module):
    """The literal baseline of the field: the next frame is regressed by squared error, and its mean is what is emitted.

    Frames are standardised value by value. The nats are those of a Gaussian of unit deviation around the output, so
    that their gradient is that of the squared error.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        assert spec.mean is not None
        assert spec.deviation is not None
        self.features = spec.features
        self.register_buffer("mean", spec.mean.clone())
        self.register_buffer("deviation", spec.deviation.clone())
        self.out = nn.Linear(width, self.features)

    def embed(self, x: torch.Tensor, depths: torch.Tensor | None = None) -> torch.Tensor:
        """Frames `(B, T, F)`, standardised; there are no levels to leave out."""
        return (x - self.mean) / self.deviation

    def nll(self, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Context `(B, T, W)` and target `(B, T, F)` to `(B, T, 1)`."""
        error = self.embed(target) - self.out(context).float()
        return 0.5 * (error.square() + math.log(2 * math.pi)).sum(-1, keepdim=True)

    def sample(
        self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling, allowed: torch.Tensor | None
    ) -> torch.Tensor:
        """Context `(B, W)` to a frame `(B, F)`: the mean, whatever the temperature; magnitudes stay positive."""
        frame = self.out(context).float() * self.deviation + self.mean
        magnitude, phase = frame.chunk(2, dim=-1)
        return torch.cat([magnitude.clamp(min=0), phase], dim=-1)


class SequenceModel(nn.Module):
    """A backbone between an embedding and a head, both given by the stream.

    Args:
        spec: of the stream.
        backbone: from `MODELS`.
        head_width: W, width of the context.
        code_dropout: share of training lanes that hear only coarse levels.
    """

    def __init__(self, spec: StreamSpec, backbone: Backbone, head_width: int, code_dropout: float) -> None:
        super().__init__()
        self.spec, self.backbone, self.code_dropout = spec, backbone, code_dropout
        kind = RegressionHead if spec.continuous else LevelHead if spec.ranks is None else SetHead
        self.head: RegressionHead | LevelHead | SetHead = kind(spec, head_width)
        self.enter = nn.Linear(self.head.features, backbone.width)
        self.norm = nn.LayerNorm(backbone.width)
        self.leave = nn.Linear(backbone.width, head_width)
        self.skip = nn.Linear(self.head.features, head_width)
        self.ending = nn.Linear(head_width, 1)
        nn.init.constant_(self.ending.bias, RARE)
        self.begin = nn.Parameter(torch.zeros(head_width))

    def initial_state(self, batch: int) -> State:
        """The state before a piece begins; every tensor has the batch first."""
        return self.backbone.initial_state(batch)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Take up the weights of a model of this shape; what belongs to the stream stays as this one's stream says.

        Raises:
            RuntimeError: a weight is missing, unknown or of another shape.
        """
        fitted = {name for name, _ in self.named_buffers()}
        own = {name: tensor for name, tensor in self.state_dict().items() if name in fitted}
        self.load_state_dict({name: tensor for name, tensor in weights.items() if name not in fitted} | own)

    def reset(self, state: State, first: torch.Tensor) -> State:
        """The state with the lanes where `first` `(B,)` is true set back to the beginning."""
        begin = self.initial_state(len(first))
        return tuple(
            torch.where(first.view(-1, *[1] * (old.dim() - 1)), new, old) for old, new in zip(state, begin, strict=True)
        )

    def depths(self, lanes: int, steps: int) -> torch.Tensor | None:
        """How much of each step is heard in training, drawn by `code_dropout`: `(B, T)`, or None where all is."""
        return self.head.depths(lanes, steps, self.code_dropout) if isinstance(self.head, LevelHead) else None

    def forward(self, x: torch.Tensor, state: State, depths: torch.Tensor | None = None) -> tuple[torch.Tensor, State]:
        """Steps `(B, T, L)` or `(B, T, F)` to contexts `(B, T, W)` for the steps after them."""
        vectors = self.head.embed(x, depths)
        hidden, state = self.backbone(self.enter(vectors), state)
        return self.leave(self.norm(hidden)) + self.skip(vectors), state

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """One step `(B, L)` or `(B, F)` to its context `(B, W)`."""
        context, state = self(x[:, None], state)
        return context[:, 0], state

    def nll(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        state: State,
        ends: torch.Tensor | None = None,
        depths: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, State]:
        """Negative log-likelihood of what follows each step, by level: `(B, T, L)` (one level for a continuous stream).

        With `ends` `(B, T)`, whether the piece goes on is part of the first level, and an end has no target. `depths`
        `(B, T)` is what is heard of each step.
        """
        context, state = self(x, state, depths)
        nats = self.head.nll(context, target)
        if ends is None:
            return nats, state
        event = F.binary_cross_entropy_with_logits(self.end_logit(context), ends.float(), reduction="none")
        nats = nats.masked_fill(ends[..., None], 0.0)
        return torch.cat([nats[..., :1] + event[..., None], nats[..., 1:]], dim=-1), state

    def end_logit(self, context: torch.Tensor) -> torch.Tensor:
        """Logit of the probability that the piece ends after the step that a context follows, `(..., W)` to `(...)`."""
        return self.ending(context)[..., 0].float()

    def ends(self, context: torch.Tensor, *, generator: torch.Generator | None, how: Sampling) -> torch.Tensor:
        """Draw whether the piece ends here, `(B, W)` to `(B,)` bool; at temperature 0, whether that is likelier."""
        probability = self.end_logit(context).sigmoid()
        if how.temperature == 0:
            return probability > 0.5
        return torch.rand(probability.shape, generator=generator, device=probability.device) < probability

    @torch.no_grad()
    def init_bias_from_counts(self, counts: torch.Tensor) -> None:
        """Begin with the frequencies of the codes, where a head has a bias for them: `counts` `(L, V)`.

        What never occurs in training is so unlikely from the start, and need not be unlearned.
        """
        if isinstance(self.head, LevelHead | SetHead) and hasattr(self.head, "bias"):
            counts = counts.sum(0) if self.head.bias.dim() == 1 else counts
            self.head.bias.copy_(((counts + UNSEEN) / (counts.sum(-1, keepdim=True) + UNSEEN)).log())

    def opening(self, batch: int) -> torch.Tensor:
        """The context of a piece's first step, `(B, W)`."""
        return self.begin.expand(batch, -1)

    def sample(
        self,
        context: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        how: Sampling | None = None,
        allowed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw the next step from contexts `(B, W)`; on the first level only codes `allowed`, `(B, V)` bool."""
        return self.head.sample(context, generator, how or Sampling(), allowed)

    @property
    def steps_in_one_call(self) -> bool:
        """Whether `onnx_step` has a graph of its step."""
        free = self.spec.follows is None and self.spec.opens is None
        return isinstance(self.backbone, Lstm) and isinstance(self.head, LevelHead) and free

    def summary(self) -> list[str]:
        """Its parts in words: name, kind, size."""
        parts = [(name, child) for name, child in self.named_children() if name != "backbone"]
        parts[1:1] = [(f"backbone.{name}", child) for name, child in self.backbone.named_children()]
        counts = [(name, child, sum(p.numel() for p in child.parameters())) for name, child in parts]
        return [f"{name:<20} {type(child).__name__:<14} {count:>12,}" for name, child, count in counts if count]


MODELS: dict[str, Callable[..., Backbone]] = {
    "lstm": Lstm,
    "conv": CausalConv,
    "mlp": WindowMlp,
    "transformer": Transformer,
}


def least_size(section: Architecture, spec: StreamSpec | None = None) -> tuple[int, int]:
    """Numbers that a model's weights and the state of one lane hold at least: biases and norms are left out.

    Without a stream, those of the backbone alone. For refusing what no memory holds before anything is allocated.
    """
    h, layers = section.hidden, section.layers
    match section:
        case LstmSection():
            weights, lane = 8 * layers * h * h, 2 * layers * h + ONSETS * section.onset_memory
            weights += ONSETS * h * (section.onset_memory + 1) if section.onset_memory else 0
        case ConvSection():
            weights, lane = layers * (section.kernel + 1) * h * h, (section.kernel - 1) * (2**layers - 1) * h
        case MlpSection():
            weights, lane = (section.window + layers - 1) * h * h, (section.window - 1) * h
        case TransformerSection():
            weights, lane = 12 * layers * h * h, 2 * layers * (section.context - 1) * h
    if spec is not None:
        read = spec.features if spec.continuous else max(spec.vocabulary) * (spec.levels if spec.ranks is None else 1)
        weights += section.head_width * (h + read)
    return weights, lane


def check_fits(weights: dict[str, torch.Tensor], section: Architecture, spec: StreamSpec) -> None:
    """Refuse weights that are too few for the model of a section, before anything is allocated for it.

    Raises:
        ValueError: so many numbers are not there.
    """
    least, found = least_size(section, spec)[0], sum(tensor.numel() for tensor in weights.values())
    if found < least:
        raise ValueError(f"{found:,} weights, where the model has {least:,} or more")


def build_model(section: Architecture, spec: StreamSpec) -> SequenceModel:
    """The model that an architecture section describes, for a stream."""
    return SequenceModel(spec, MODELS[section.kind](section), section.head_width, section.code_dropout)
