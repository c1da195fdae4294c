"""Models: a backbone over time and a head over the levels of a step.

    stream -> embedding -> backbone (over T) -> context -> head (over L) -> next step

`SequenceModel` is the contract. A piece may end after every step (`sample_ending`), and begins with a step whose
context is learned (`bos_context`). A backbone is one entry of `MODELS`; the stream decides which head a model has.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from continuo.model.backbones import Backbone, CausalConv, Lstm, State, Transformer, WindowMlp
from continuo.model.heads import ChangeDecoder, LevelHead, RegressionHead, SetHead
from continuo.model.metadata import Architecture, Sampling
from continuo.model.stream import StreamSpec

UNSEEN_COUNT = 0.1  # occurrences added to each code's count
RARE_LOGIT = -7.0  # initial logit of a piece's end: one in a thousand steps


class SequenceModel(nn.Module):
    """A backbone between an embedding and a head of width W; the stream decides both of these."""

    def __init__(self, spec: StreamSpec, backbone: Backbone, head_width: int, quantizer_dropout: float) -> None:
        super().__init__()
        self.spec, self.backbone, self.quantizer_dropout = spec, backbone, quantizer_dropout
        kind = RegressionHead if spec.continuous else LevelHead if spec.ranks is None else SetHead
        self.head: RegressionHead | LevelHead | SetHead = kind(spec, head_width)
        self.change_decoder = None if spec.decay is None else ChangeDecoder(spec.decay)
        features = self.head.features * (1 if self.change_decoder is None else 2)
        self.in_proj = nn.Linear(features, backbone.width)
        self.norm = nn.LayerNorm(backbone.width)
        self.out_proj = nn.Linear(backbone.width, head_width)
        self.skip_proj = nn.Linear(features, head_width)
        self.ending = nn.Linear(head_width, 1)
        nn.init.constant_(self.ending.bias, RARE_LOGIT)
        self.bos = nn.Parameter(torch.zeros(head_width))

    def initial_state(self, batch: int) -> State:
        """Return the state before a piece begins; every tensor has the batch as its first axis."""
        last = [] if self.change_decoder is None else [self.bos.new_zeros(batch, self.head.features)]
        return *self.backbone.initial_state(batch), *last

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights, but no buffers (geometry, normalization); RuntimeError: they are of another model."""
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
        decoded: list[Tensor] = []
        if self.change_decoder is not None:
            *before, last = state
            state = tuple(before)
            vectors, last = self.change_decoder(vectors, last)
            decoded = [last]
        hidden, state = self.backbone(self.in_proj(vectors), state)
        return self.out_proj(self.norm(hidden)) + self.skip_proj(vectors), (*state, *decoded)

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
        """Return whether `onnx_step.step_graph` can build a graph of a step."""
        free = self.spec.follows is None and self.spec.opens is None
        return isinstance(self.backbone, Lstm) and isinstance(self.head, LevelHead) and free

    def summary(self) -> list[str]:
        """Return one line per part: name, class and number of weights."""
        parts = [(name, child) for name, child in self.named_children() if name != "backbone"]
        parts[1:1] = [(f"backbone.{name}", child) for name, child in self.backbone.named_children()]
        counts = [(name, child, sum(p.numel() for p in child.parameters())) for name, child in parts]
        return [f"{name:<20} {type(child).__name__:<14} {count:>12,}" for name, child, count in counts if count]


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
