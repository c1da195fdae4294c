"""Models: a backbone over time and a head over the levels of a step.

    stream -> embedding -> backbone (over T) -> context -> head (over L) -> next step

`SequenceModel` is the contract. A piece may end after every step (`sample_ending`), and begins with a step whose
context is learned (`bos_context`). A backbone is one entry of `MODELS`; the stream decides which head a model has.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from continuo.model.backbones import Backbone, CausalConv, Lstm, State, Transformer, WindowMlp
from continuo.model.metadata import Architecture
from continuo.model.stream import StreamSpec
from continuo.model.temperature import Sampling, draw

if TYPE_CHECKING:
    from continuo.model.onnx_graph import Graph

UNSEEN_COUNT = 0.1  # occurrences added to each code's count
CPU = torch.device("cpu")  # also in `model_size`: the first arange on the meta device takes a second of imports
RARE_LOGIT = -7.0  # initial logit of a piece's end: one in a thousand steps
RENAMED = {  # parameters of states that Continuo 0.1 saved, and their names now
    "enter": "in_proj", "leave": "out_proj", "skip": "skip_proj", "begin": "bos", "head.known": "head.partial_proj",
    "backbone.listen": "backbone.onset_proj", "backbone.recall": "backbone.memory_proj",
}  # fmt: skip


def normal(*shape: int, deviation: float) -> nn.Parameter:
    """Return a parameter of normal random numbers; on the meta device, where drawing imports a compiler, its shape."""
    numbers = torch.empty(shape)
    return nn.Parameter(numbers if numbers.is_meta else nn.init.normal_(numbers, std=deviation))


class CodeEmbedding(nn.Module):
    """Embeds a step as the sum of its levels' vectors: the stream's own (fixed, of unit deviation), or learned ones."""

    vectors: Tensor
    level: Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        if spec.vectors is not None:
            self.register_buffer("vectors", spec.vectors / spec.vectors[0].std())
        else:
            self.vectors = normal(spec.levels, max(spec.vocabulary), width, deviation=width**-0.5)
        self.scale = 1.0 if spec.vectors is not None else math.sqrt(width)
        self.width = self.vectors.shape[-1]
        self.register_buffer("level", torch.arange(spec.levels, device=CPU), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Return partial sums `(L, B, T, P)` of codes `(B, T, L)`: entry l sums levels 0 to l."""
        return self.vectors[self.level[:, None, None], codes.permute(2, 0, 1)].cumsum(0) * self.scale


class CodeHead(nn.Module):
    """The shared part of heads over codes: a residual block that combines context, partial step and level."""

    def __init__(self, features: int, width: int, levels: int) -> None:
        super().__init__()
        self.features, self.levels = features, levels
        self.partial_proj = nn.Linear(features, width)
        self.level = normal(levels, width, deviation=0.02)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)

    def mixed(self, context: Tensor, partial: Tensor, level: Tensor) -> Tensor:
        """Combine context, partial sums and level vectors, which broadcast to `(..., W)`."""
        h = F.silu(context + self.partial_proj(partial) + level)
        h = h + self.outer(F.silu(self.inner(self.norm_in(h))))
        return self.norm_out(h)


class LevelHead(CodeHead):
    """p(step | context), one level after another: a softmax over level l given the context and the levels before l.

    The levels share one residual block; the levels before l enter as the sum of their vectors. Learned vectors are also
    the weights of the output (Press and Wolf, "Using the output embedding", 2017).
    """

    unused: Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        embedding = CodeEmbedding(spec, width)
        super().__init__(embedding.width, width, spec.levels)
        self.embedding = embedding
        self.refining = spec.vectors is not None  # later levels refine the first one, as quantizer stages do
        if self.refining:
            self.out = normal(spec.levels, width, max(spec.vocabulary), deviation=width**-0.5)
        else:
            self.bias = nn.Parameter(torch.zeros(spec.levels, max(spec.vocabulary)))
        sizes = torch.tensor(spec.vocabulary, device=CPU)[:, None]
        unused = torch.arange(max(spec.vocabulary), device=CPU) >= sizes  # (L, V)
        self.register_buffer("unused", unused, persistent=False)
        self.narrow = len(set(spec.vocabulary)) > 1

    def embed(self, x: Tensor, n_quantizers: Tensor | None = None) -> Tensor:
        """Embed codes `(B, T, L)` as `(B, T, P)`, of each step the first `n_quantizers` `(B, T)` levels."""
        sums = self.embedding(x)
        if n_quantizers is None:
            return sums[-1]
        return sums.gather(0, n_quantizers[None, ..., None].expand(1, -1, -1, self.features) - 1)[0]

    def logits(self, context: Tensor, partial: Tensor, levels: slice) -> Tensor:
        """Return logits `(L', N, V)` for contexts `(N, W)` and the partial sums `(L', N, P)` of the levels before."""
        mixed = self.mixed(context, partial, self.level[levels, None])
        if self.refining:
            logits = torch.bmm(mixed, self.out[levels])
        else:
            logits = torch.baddbmm(self.bias[levels, None], mixed, self.embedding.vectors[levels].transpose(1, 2))
        return logits.masked_fill(self.unused[levels, None], -torch.inf) if self.narrow else logits

    def nll(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats by level, `(B, T, L)`: context `(B, T, W)`, target `(B, T, L)`."""
        partial = F.pad(self.embedding(target)[:-1], (0, 0, 0, 0, 0, 0, 1, 0))  # of the levels before l
        logits = self.logits(context.flatten(0, 1), partial.flatten(1, 2), slice(None))  # (L, B * T, V)
        nll = F.cross_entropy(logits.float().flatten(0, 1), target.permute(2, 0, 1).flatten(), reduction="none")
        return nll.view(self.levels, *target.shape[:2]).permute(1, 2, 0)

    def temperature(self, sampling: Sampling, level: int) -> float:
        """Return the temperature of a level: coarse and fine ones differ where later levels refine the first."""
        return sampling.temperature * (sampling.level_temperature(level) if self.refining else 1.0)

    def sample(
        self, context: Tensor, generator: torch.Generator | None, sampling: Sampling, allowed: Tensor | None
    ) -> Tensor:
        """Draw steps `(B, L)` from contexts `(B, W)`."""
        partial = context.new_zeros(1, len(context), self.features)
        codes = []
        for level in range(self.levels):
            logits = self.logits(context, partial, slice(level, level + 1))[0]
            if level == 0 and allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            codes.append(draw(logits, generator, self.temperature(sampling, level), sampling.top_p))
            partial = partial + self.embedding.vectors[level, codes[-1]] * self.embedding.scale
        return torch.stack(codes, dim=-1)

    def graph(self, g: "Graph", context: str, weight: Tensor, bias: Tensor) -> str:
        """Add the drawing of a step to a graph: inputs `context` `(B, W)` and `noise` `(B, L * V)`, output `codes`.

        Return a linear map of the vector of the step, `(B, R)`: `weight` `(R, P)` and `bias`, tabulated for each code.
        """
        vectors = self.embedding.vectors * self.embedding.scale
        partials, mapped = vectors @ self.partial_proj.weight.T, vectors @ weight.T  # (L, V, W) and (L, V, R)
        mapped[0] += bias
        codes, parts = [], []
        for level, noise in enumerate(g.split("noise", [vectors.shape[1]] * self.levels)):
            h = g.silu(g.add("Add", context, g.constant(self.partial_proj.bias + self.level[level])))
            inner = g.silu(g.normed_product(h, self.norm_in, self.inner.weight, self.inner.bias))
            h = g.add("Sum", h, g.scaled_product(inner, self.outer.weight), g.constant(self.outer.bias))
            if self.refining:
                logits = g.normed_product(h, self.norm_out, self.out[level].T, None)
            else:
                masked = self.bias[level].masked_fill(self.unused[level], -torch.inf)
                logits = g.normed_product(h, self.norm_out, self.embedding.vectors[level], masked)
            codes.append(g.add("ArgMax", g.add("Add", logits, noise), axis=1))  # (B, 1)
            context = g.add("Add", context, g.add("GatherND", g.constant(partials[level]), codes[-1]))
            parts.append(g.add("GatherND", g.constant(mapped[level]), codes[-1]))
        g.add("Concat", *codes, axis=1, to="codes")
        return g.add("Sum", *parts)


class SetHead(CodeHead):
    """p(step | context) where a step is a set: its codes in ascending order, then a stop.

    The levels share one alphabet. Codes that may not follow have probability 0, so that every set is drawn in one way,
    and nothing is scored after a stop. Source: the factorization is that of RNN-NADE (Boulanger-Lewandowski et al.,
    2012), over the notes that sound instead of over all notes.
    """

    ranks: Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__(width, width, spec.levels)
        assert spec.ranks is not None
        self.register_buffer("ranks", spec.ranks.clone(), persistent=False)
        self.stop = int(spec.ranks.argmax())
        self.vectors = normal(len(spec.ranks), width, deviation=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(spec.ranks)))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Return the vectors `(..., W)` of codes `(...)`; a stop has the vector 0."""
        vectors = F.embedding(codes, self.vectors) * math.sqrt(self.features)
        return vectors.masked_fill((codes == self.stop)[..., None], 0.0)

    def embed(self, x: Tensor, n_quantizers: Tensor | None = None) -> Tensor:
        """Embed sets `(B, T, L)` as the sums of their vectors `(B, T, W)`; sets have no levels to leave out."""
        return self.embed_codes(x).sum(2)

    def logits(self, context: Tensor, partial: Tensor, level: Tensor, last: Tensor | None) -> Tensor:
        """Return logits `(N, V)` for contexts, partial sums and level vectors `(N, W)`, and the codes before `(N,)`."""
        logits = F.linear(self.mixed(context, partial, level), self.vectors, self.bias)
        if last is None:
            return logits
        lower = self.ranks <= self.ranks[last][:, None]
        lower[:, self.stop] = False
        return logits.masked_fill(lower, -torch.inf)

    def nll(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats by level, `(B, T, L)`: context `(B, T, W)`, target `(B, T, L)`."""
        partial = F.pad(self.embed_codes(target).cumsum(2)[:, :, :-1], (0, 0, 1, 0))
        nll = context.new_zeros(target.shape, dtype=torch.float32)
        first = self.logits(context.flatten(0, 1), partial[:, :, 0].flatten(0, 1), self.level[0], None)
        nll[..., 0] = F.cross_entropy(first.float(), target[..., 0].flatten(), reduction="none").view(target.shape[:2])
        row, step, before = (target[:, :, :-1] != self.stop).nonzero(as_tuple=True)
        level = before + 1  # of the places with a code before them
        here = self.logits(context[row, step], partial[row, step, level], self.level[level], target[row, step, before])
        rest = F.cross_entropy(here.float(), target[row, step, level], reduction="none")
        return nll.index_put((row, step, level), rest)

    def sample(
        self, context: Tensor, generator: torch.Generator | None, sampling: Sampling, allowed: Tensor | None
    ) -> Tensor:
        """Draw steps `(B, L)` from contexts `(B, W)`."""
        partial = torch.zeros_like(context)
        codes: list[Tensor] = []
        for level in range(self.levels):
            logits = self.logits(context, partial, self.level[level], codes[-1] if codes else None)
            codes.append(draw(logits, generator, sampling.temperature, sampling.top_p))
            partial = partial + self.embed_codes(codes[-1])
        return torch.stack(codes, dim=-1)


class RegressionHead(nn.Module):
    """Regresses the next frame by squared error and emits its mean: the common baseline of the field.

    Frames are standardized value by value, and the loss is that of a Gaussian of unit deviation around the output.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        assert spec.mean is not None
        assert spec.deviation is not None
        self.features = spec.features
        self.register_buffer("mean", spec.mean.clone())
        self.register_buffer("deviation", spec.deviation.clone())
        self.out = nn.Linear(width, self.features)

    def embed(self, x: Tensor, n_quantizers: Tensor | None = None) -> Tensor:
        """Standardize frames `(B, T, F)`; frames have no levels to leave out."""
        return (x - self.mean) / self.deviation

    def nll(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats, `(B, T, 1)`: context `(B, T, W)`, target `(B, T, F)`."""
        error = self.embed(target) - self.out(context).float()
        return 0.5 * (error.square() + math.log(2 * math.pi)).sum(-1, keepdim=True)

    def sample(
        self, context: Tensor, generator: torch.Generator | None, sampling: Sampling, allowed: Tensor | None
    ) -> Tensor:
        """Return the mean frames `(B, F)` of contexts `(B, W)` at any temperature; magnitudes are at least 0."""
        magnitude, phase = (self.out(context).float() * self.deviation + self.mean).chunk(2, dim=-1)
        return torch.cat([magnitude.clamp(min=0), phase], dim=-1)


class SequenceModel(nn.Module):
    """A backbone between an embedding and a head of width W; the stream decides both of these."""

    def __init__(self, spec: StreamSpec, backbone: Backbone, head_width: int, quantizer_dropout: float) -> None:
        super().__init__()
        self.spec, self.backbone, self.quantizer_dropout = spec, backbone, quantizer_dropout
        kind = RegressionHead if spec.continuous else LevelHead if spec.ranks is None else SetHead
        self.head: RegressionHead | LevelHead | SetHead = kind(spec, head_width)
        self.in_proj = nn.Linear(self.head.features, backbone.width)
        self.norm = nn.LayerNorm(backbone.width)
        self.out_proj = nn.Linear(backbone.width, head_width)
        self.skip_proj = nn.Linear(self.head.features, head_width)
        self.ending = nn.Linear(head_width, 1)
        nn.init.constant_(self.ending.bias, RARE_LOGIT)
        self.bos = nn.Parameter(torch.zeros(head_width))
        self.register_load_state_dict_pre_hook(rename_old_parameters)

    def initial_state(self, batch: int) -> State:
        """Return the state before a piece begins; every tensor has the batch as its first axis."""
        return self.backbone.initial_state(batch)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights, but no buffers (codebook geometry, normalization); RuntimeError: they are of another model."""
        buffers = {name for name, _ in self.named_buffers()}
        own = {name: tensor for name, tensor in self.state_dict().items() if name in buffers}
        self.load_state_dict({name: tensor for name, tensor in weights.items() if name not in buffers} | own)

    def reset(self, state: State, is_start: Tensor) -> State:
        """Return the state with the rows where `is_start` `(B,)` is true set back to the beginning of a piece."""
        pairs = zip(state, self.initial_state(len(is_start)), strict=True)
        return tuple(torch.where(is_start.view(-1, *[1] * (old.dim() - 1)), new, old) for old, new in pairs)

    def sample_n_quantizers(self, rows: int, steps: int) -> Tensor | None:
        """Draw the number of levels, 1 to L, of each training step that the model sees, `(B, T)`; None means all.

        A fraction `quantizer_dropout` of the batch rows has only coarse levels at most steps. So the model does not
        learn to rely on fine detail which its own samples will not repeat (Zeghidour et al., "SoundStream", 2021).
        """
        levels, device = self.spec.levels, self.bos.device
        if self.quantizer_dropout == 0 or levels == 1 or not isinstance(self.head, LevelHead):
            return None
        numbers = torch.randint(levels, (rows, steps), device=device) + 1
        return numbers.masked_fill(torch.rand(rows, 1, device=device) >= self.quantizer_dropout, levels)

    def forward(self, x: Tensor, state: State, n_quantizers: Tensor | None = None) -> tuple[Tensor, State]:
        """Process steps `(B, T, L)` or `(B, T, F)`; return the contexts `(B, T, W)` of the steps after them."""
        vectors = self.head.embed(x, n_quantizers)
        hidden, state = self.backbone(self.in_proj(vectors), state)
        return self.out_proj(self.norm(hidden)) + self.skip_proj(vectors), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take in one step of B streams, codes `(B, L)` int64 or features `(B, F)`, after those in `state`.

        Returns:
            The context `(B, W)` from which the head draws the next step, and the state after this step.
        """
        context, state = self(x[:, None], state)
        return context[:, 0], state

    def nll(
        self, x: Tensor, target: Tensor, state: State, ends: Tensor | None = None, n_quantizers: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the negative log-likelihood in nats of the step after each step, `(B, T, L)`, and the state.

        A continuous stream has one level. With `ends`, where pieces end, `(B, T)` bool, the first level also scores
        whether a piece goes on, and an end has no target. Of each step the model sees `n_quantizers` `(B, T)` levels.
        """
        context, state = self(x, state, n_quantizers)
        nll = self.head.nll(context, target)
        if ends is None:
            return nll, state
        event = F.binary_cross_entropy_with_logits(self.end_logit(context), ends.float(), reduction="none")
        nll = nll.masked_fill(ends[..., None], 0.0)
        return torch.cat([nll[..., :1] + event[..., None], nll[..., 1:]], dim=-1), state

    def end_logit(self, context: Tensor) -> Tensor:
        """Return the logit `(...)` of the probability that a piece ends here, for contexts `(..., W)`."""
        return self.ending(context)[..., 0].float()

    def sample_ending(self, context: Tensor, generator: torch.Generator | None, sampling: Sampling) -> Tensor:
        """Draw whether pieces end at contexts `(B, W)`, `(B,)` bool; at temperature 0, whether that is likelier."""
        probability = self.end_logit(context).sigmoid()
        if sampling.temperature == 0:
            return probability > 0.5
        return torch.rand(probability.shape, generator=generator, device=probability.device) < probability

    @torch.no_grad()
    def init_bias_from_counts(self, counts: Tensor) -> None:
        """Set the head's bias, if any, to the log frequencies of codes, `counts` `(L, V)`: rare ones begin unlikely."""
        if isinstance(self.head, LevelHead | SetHead) and hasattr(self.head, "bias"):
            counts = counts.sum(0) if self.head.bias.dim() == 1 else counts
            self.head.bias.copy_(((counts + UNSEEN_COUNT) / (counts.sum(-1, keepdim=True) + UNSEEN_COUNT)).log())

    def bos_context(self, batch: int) -> Tensor:
        """Return the context of a piece's first step, `(B, W)`."""
        return self.bos.expand(batch, -1)

    def sample(
        self,
        context: Tensor,
        *,
        generator: torch.Generator | None = None,
        sampling: Sampling | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Draw the next step from contexts `(B, W)`; on the first level only codes `allowed`, `(B, V)` bool."""
        return self.head.sample(context, generator, sampling or Sampling(), allowed)

    @property
    def has_step_graph(self) -> bool:
        """Return whether `generation.step_graph` can build a graph of a step."""
        free = self.spec.follows is None and self.spec.opens is None
        return isinstance(self.backbone, Lstm) and isinstance(self.head, LevelHead) and free

    def summary(self) -> list[str]:
        """Return one line per part: name, class and number of weights."""
        parts = [(name, child) for name, child in self.named_children() if name != "backbone"]
        parts[1:1] = [(f"backbone.{name}", child) for name, child in self.backbone.named_children()]
        counts = [(name, child, sum(p.numel() for p in child.parameters())) for name, child in parts]
        return [f"{name:<20} {type(child).__name__:<14} {count:>12,}" for name, child, count in counts if count]


def rename_old_parameters(model: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename the parameters of an older state before a model loads them."""
    for name in list(weights):
        for old, new in RENAMED.items():
            if f"{name}.".startswith(f"{prefix}{old}."):
                weights[prefix + new + name.removeprefix(prefix + old)] = weights.pop(name)


Build = Callable[..., Backbone]
MODELS: dict[str, Build] = {"lstm": Lstm, "conv": CausalConv, "mlp": WindowMlp, "transformer": Transformer}


def build_model(section: Architecture, spec: StreamSpec) -> SequenceModel:
    """Build the model that an architecture section describes, for a stream."""
    return SequenceModel(spec, MODELS[section.kind](section), section.head_width, section.code_dropout)


def model_size(section: Architecture, spec: StreamSpec | None = None) -> tuple[int, int]:
    """Return the numbers of weights and of state values per batch row; without a stream, of the backbone alone."""
    with torch.device("meta"):
        model = MODELS[section.kind](section) if spec is None else build_model(section, spec)
        state = model.initial_state(1)
    return sum(weight.numel() for weight in model.parameters()), sum(tensor.numel() for tensor in state)
