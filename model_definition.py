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

import torch
import torch.nn.functional as F
from torch import nn

from continuo.metadata import Architecture, LstmSection
from continuo.sampling import Sampling, draw
from continuo.stream import StreamSpec

State = tuple[torch.Tensor, ...]  # every tensor has the batch first
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
    """`torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997), with dropout between and after its layers."""

    def __init__(self, section: LstmSection) -> None:
        super().__init__()
        self.width, self.layers = section.hidden, section.layers
        between = section.dropout if section.layers > 1 else 0.0
        self.lstm = nn.LSTM(self.width, self.width, self.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(section.dropout)

    def initial_state(self, batch: int) -> State:
        zeros = next(self.lstm.parameters()).new_zeros(batch, self.layers, self.width)
        return zeros, zeros.clone()

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        if x.shape[1] == 1 and not self.training:
            return self._one_step(x, state)
        hidden, cell = (tensor.transpose(0, 1).contiguous() for tensor in state)  # (layers, B, H), as nn.LSTM wants it
        out, (hidden, cell) = self.lstm(x, (hidden, cell))
        return self.dropout(out), (hidden.transpose(0, 1), cell.transpose(0, 1))

    def _one_step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """The same, cell by cell: on the CPU `nn.LSTM` packs its weights anew in every call, which costs more."""
        out, moved = x[:, 0], []
        for hidden, cell, weights in zip(state[0].unbind(1), state[1].unbind(1), self.lstm.all_weights, strict=True):
            out, cell = torch.lstm_cell(out, (hidden, cell), *weights)
            moved.append((out, cell))
        hidden, cell = (torch.stack(tensors, 1) for tensors in zip(*moved, strict=True))
        return out[:, None], (hidden, cell)


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
            self.vectors = nn.Parameter(torch.randn(spec.levels, max(spec.vocabulary), width))
        self.width = self.vectors.shape[-1]
        self.register_buffer("level", torch.arange(spec.levels), persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, T, L)` to partial sums `(L, B, T, P)`: entry l holds levels 0 to l."""
        return self.vectors[self.level[:, None, None], codes.permute(2, 0, 1)].cumsum(0)


class LevelHead(nn.Module):
    """p(step | context), level after level: a softmax over level l given the context and the levels before l.

    The levels share one residual block; what is known of the step so far enters as the sum of its vectors.
    """

    unused: torch.Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        self.embedding = CodeEmbedding(spec, width)
        self.features = self.embedding.width
        self.known = nn.Linear(self.features, width)
        self.level = nn.Parameter(torch.randn(spec.levels, width) * 0.02)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.out = nn.Parameter(torch.randn(spec.levels, width, max(spec.vocabulary)) / math.sqrt(width))
        unused = torch.arange(max(spec.vocabulary)) >= torch.tensor(spec.vocabulary)[:, None]  # (L, V)
        self.register_buffer("unused", unused, persistent=False)
        self.levels, self.narrow = spec.levels, bool(unused.any())
        self.refining = spec.vectors is not None  # later levels refine the first one, and are no music of their own

    def embed(self, x: torch.Tensor, coarse_share: float) -> torch.Tensor:
        """Codes `(B, T, L)` to vectors `(B, T, P)`; a share of the lanes hears only the first levels of each step.

        That keeps the model from leaning on fine detail which its own samples will not repeat.
        """
        sums = self.embedding(x)
        if coarse_share == 0 or self.levels == 1:
            return sums[-1]
        last = torch.randint(self.levels, x.shape[:2], device=x.device)
        whole = torch.rand(len(x), 1, device=x.device) >= coarse_share
        last = last.masked_fill(whole, self.levels - 1)
        return sums.gather(0, last[None, ..., None].expand(1, -1, -1, self.features))[0]

    def logits(self, context: torch.Tensor, known: torch.Tensor, levels: slice) -> torch.Tensor:
        """Context `(N, W)` and partial sums `(L', N, P)` of the levels before, to logits `(L', N, V)`."""
        h = F.silu(context + self.known(known) + self.level[levels, None])
        h = h + self.outer(F.silu(self.inner(self.norm_in(h))))
        logits = torch.bmm(self.norm_out(h), self.out[levels])
        return logits.masked_fill(self.unused[levels, None], -torch.inf) if self.narrow else logits

    def nats(self, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood by level: context `(B, T, W)` and target `(B, T, L)` to `(B, T, L)`."""
        known = F.pad(self.embedding(target)[:-1], (0, 0, 0, 0, 0, 0, 1, 0))  # level l knows the levels before it
        logits = self.logits(context.flatten(0, 1), known.flatten(1, 2), slice(None))  # (L, B * T, V)
        classes = target.permute(2, 0, 1).flatten()
        nats = F.cross_entropy(logits.float().flatten(0, 1), classes, reduction="none")
        return nats.view(self.levels, *target.shape[:2]).permute(1, 2, 0)

    def sample(self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling) -> torch.Tensor:
        """Context `(B, W)` to a step `(B, L)`; a refined level and those that refine it have their own temperatures."""
        known = context.new_zeros(1, len(context), self.features)
        codes = []
        for level in range(self.levels):
            logits = self.logits(context, known, slice(level, level + 1))[0]
            share = (how.fine_temperature if level else how.coarse_temperature) if self.refining else 1.0
            codes.append(draw(logits, generator, how.temperature * share, how.top_p))
            known = known + self.embedding.vectors[level, codes[-1]]
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

    def embed(self, x: torch.Tensor, coarse_share: float) -> torch.Tensor:
        """Frames `(B, T, F)`, standardised; there are no levels to drop."""
        return (x - self.mean) / self.deviation

    def nats(self, context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Context `(B, T, W)` and target `(B, T, F)` to `(B, T, 1)`."""
        error = self.embed(target, 0.0) - self.out(context).float()
        return 0.5 * (error.square() + math.log(2 * math.pi)).sum(-1, keepdim=True)

    def sample(self, context: torch.Tensor, generator: torch.Generator | None, how: Sampling) -> torch.Tensor:
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
        self.head = RegressionHead(spec, head_width) if spec.continuous else LevelHead(spec, head_width)
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

    def forward(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Steps `(B, T, L)` or `(B, T, F)` to contexts `(B, T, W)` for the steps after them."""
        vectors = self.head.embed(x, self.code_dropout if self.training else 0.0)
        hidden, state = self.backbone(self.enter(vectors), state)
        return self.leave(self.norm(hidden)) + self.skip(vectors), state

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """One step `(B, L)` or `(B, F)` to its context `(B, W)`."""
        context, state = self(x[:, None], state)
        return context[:, 0], state

    def nats(
        self, x: torch.Tensor, target: torch.Tensor, state: State, ends: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Negative log-likelihood of what follows each step, by level: `(B, T, L)` (one level for a continuous stream).

        With `ends` `(B, T)`, whether the piece goes on is part of the first level, and an end has no target.
        """
        context, state = self(x, state)
        nats = self.head.nats(context, target)
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

    def opening(self, batch: int) -> torch.Tensor:
        """The context of a piece's first step, `(B, W)`."""
        return self.begin.expand(batch, -1)

    def sample(
        self, context: torch.Tensor, *, generator: torch.Generator | None = None, how: Sampling | None = None
    ) -> torch.Tensor:
        """Draw the next step from contexts `(B, W)`."""
        return self.head.sample(context, generator, how or Sampling())


MODELS: dict[str, Callable[..., Backbone]] = {"lstm": Lstm}


def build_model(section: Architecture, spec: StreamSpec) -> SequenceModel:
    """The model that an architecture section describes, for a stream."""
    return SequenceModel(spec, MODELS[section.kind](section), section.head_width, section.code_dropout)
