"""Heads give the probabilities of the next step, level by level, and draw it, from a context of width W."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from continuo.model.metadata import Sampling
from continuo.model.stream import StreamSpec

CPU = torch.device("cpu")  # also on the meta device, where the first arange takes a second of imports


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


class ChangeDecoder(nn.Module):
    """Decodes steps whose vectors are changes: a step is its change plus the decayed step before it."""

    decay: Tensor

    def __init__(self, decay: Tensor) -> None:
        super().__init__()
        self.register_buffer("decay", decay.clone())

    @torch.no_grad()  # neither changes nor decay are learned
    def forward(self, changes: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return changes `(B, T, P)` with the decoded steps after them, `(B, T, 2 * P)`, and the last step `(B, P)`.

        `last` is the step before the first one; of the beginning of a piece it is zero.
        """
        steps = []
        for change in changes.unbind(1):
            last = torch.addcmul(change, self.decay, last)
            steps.append(last)
        return torch.cat([changes, torch.stack(steps, 1)], dim=-1), last

    @torch.no_grad()
    def led_astray(self, codes: Tensor, last: Tensor, vectors: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return a history that strays from a stream, and the codes that lead back to it from there.

        A model that only knows real music does not know how to go on after its own mistakes. So at some steps the
        history takes codes that are not the nearest ones, and what follows is quantized again from where it then is.
        Only codes of changes allow this: the next ones make up for a mistake. (Learning from one's own mistakes: Ross,
        Gordon and Bagnell, "A reduction of imitation learning and structured prediction to no-regret online learning",
        2011.)

        Shape: codes `(B, T, L)`; the decoded step before them, `last` `(B, P)`; vectors of all codes `(L, V, P)`; noise
        `(B, T, L, V)`, added to squared distances, 0 where the history does not stray; both results `(B, T, L)`.
        """
        real = strayed = last
        squares, levels = vectors.square().sum(-1), torch.arange(len(vectors), device=codes.device)
        strays = noise.flatten(2).any(-1)
        history, leading_back = [], []
        for t, change in enumerate(vectors[levels, codes].sum(2).unbind(1)):
            real = torch.addcmul(change, self.decay, real)
            wanted = real - self.decay * strayed
            best, rest = [], wanted
            for level, points in enumerate(vectors):
                best.append((squares[level] - 2 * rest @ points.T).argmin(-1))
                rest = rest - points[best[-1]]
            used = torch.stack(best, -1)
            leading_back.append(used)
            if strays[:, t].any():
                taken, rest = [], wanted
                for level, points in enumerate(vectors):
                    distances = squares[level] - 2 * rest @ points.T + noise[:, t, level]
                    taken.append(torch.where(strays[:, t], distances.argmin(-1), best[level]))
                    rest = rest - points[taken[-1]]
                used = torch.stack(taken, -1)
            history.append(used)
            strayed = real - rest
        return torch.stack(history, 1), torch.stack(leading_back, 1)


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


def draw(logits: torch.Tensor, generator: torch.Generator | None, temperature: float, top_p: float) -> torch.Tensor:
    """Draw one class per row by the Gumbel-max method: the largest logit + Gumbel noise is a sample of the softmax.

    Args:
        logits: `(..., V)` at any scale; the classes are `(...)` int64.
        generator: on the logits' device; None draws from torch's own.
        temperature: at least 0; 0 takes the likeliest class.
        top_p: in (0, 1]; below 1 only the likeliest classes that together reach this probability can be drawn.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_p < 1:
        probabilities, order = logits.softmax(-1).sort(-1, descending=True)
        unlikely = probabilities.cumsum(-1) - probabilities >= top_p  # the first class always stays
        logits = logits.masked_fill(unlikely.scatter(-1, order, unlikely), -torch.inf)
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log()).argmax(-1)
