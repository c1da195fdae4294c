"""A small network behind the quantizer: it turns a run of quantized frames into the frames they probably came from.

Frames are quantized one by one, so even a steady tone flickers from frame to frame; of all differences between
quantized and real music this is the most audible one. The network sees the frames around each frame and adds what is
missing, also beyond the principal components. (Chen and Gersho, Adaptive postfiltering for quality enhancement of coded
speech, 1995; this post-filter is learned.)

Its loss is the squared error of the weighted log magnitudes, which alone would smooth the music, plus the distance
between statistics of the made and the real frames: how loud the bands are, from the quietest to the loudest moment, and
how much the bands and the whole spectrum move, from the stillest to the liveliest moment. In the last steps the
statistics are those of the audio that the frames overlap to, analyzed again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from continuo.audio.codebook import Advance
from continuo.audio.stft import mel_filters, overlapped_power

PAST, AHEAD = 3, 1  # frames that the network sees before and after the frame it makes
WIDTH, BATCH, LEARNING_RATE, WARMUP_STEPS, MAX_EPOCHS = 384, 16, 2e-3, 50, 50
STATISTICS_WEIGHTS = 0.5, 1.0, 1.0, 1.0, 0.5, 0.5  # relative to the squared error, in the order of `statistics`
MEL_BANDS = 48
BAND_FLOOR = 4e-5  # of full scale, added to the magnitudes of bands before their logarithm
REPORTS = 20  # calls of `advance` during a fit
OVERLAPPED_FRACTION = 1 / 3  # of the steps, the last ones
PASSES = 2  # of Griffin-Lim, from the true phases
HELD_OUT = 8  # every eighth run is held out; the post-filter is dropped unless it improves these


class Postfilter(nn.Module):
    """Correct frames of K bins, each by the P components of itself, `PAST` frames before and `AHEAD` after it."""

    scale: torch.Tensor

    def __init__(self, components: int, bins: int) -> None:
        super().__init__()
        self.mix = nn.Linear(components * (PAST + 1 + AHEAD), WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, bins)
        self.register_buffer("scale", torch.ones(()))
        self.disable()

    def disable(self) -> None:
        """Make every correction zero."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map quantized vectors `(..., PAST + T + AHEAD, P)` to corrections `(..., T, K)`."""
        windows = (vectors / self.scale).unfold(-2, PAST + 1 + AHEAD, 1)  # (..., T, P, PAST + 1 + AHEAD)
        return self.out(F.silu(self.inner(F.silu(self.mix(windows.flatten(-2))))))


def pad_edges(vectors: torch.Tensor, past: int = PAST, ahead: int = AHEAD) -> torch.Tensor:
    """Repeat the first of frames `(..., T, P)` `past` times before it, and the last `ahead` times after it."""
    first = vectors[..., :1, :].expand(*vectors.shape[:-2], past, -1)
    last = vectors[..., -1:, :].expand(*vectors.shape[:-2], ahead, -1)
    return torch.cat([first, vectors, last], dim=-2)


@dataclass(frozen=True)
class Runs:
    """Hold R runs of T consecutive frames, from which a post-filter learns."""

    quantized: torch.Tensor  # principal components (R, T, P) of the quantized frames
    decoded: torch.Tensor  # their vectors (R, T, F), without a post-filter
    real: torch.Tensor  # vectors (R, T, F) of the frames before quantization
    phases: torch.Tensor  # phases (R, T, K) of their low bins, in radians


class PostfilterLoss:
    """Measure how far corrected runs are from the real ones.

    Args:
        weight: `(F,)`, by which the values of `runs` were multiplied.
        bins_hz: `(K,)`, the frequencies of the bins with which the values begin; the statistics are those of bins.
        floor: added to magnitudes (fractions of full scale) before their logarithm was taken.
    """

    def __init__(
        self, runs: Runs, weight: torch.Tensor, *, bins_hz: np.ndarray, floor: float, n_fft: int, hop: int
    ) -> None:
        self.runs, self.weight, self.floor, self.bins = runs, weight, floor, len(bins_hz)
        self.filters = torch.from_numpy(mel_filters(bins_hz, MEL_BANDS).T.astype(np.float32))
        self.reanalysis = Reanalysis(n_fft, hop, runs.real.shape[1])

    def __call__(
        self, network: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, overlapped: bool = False
    ) -> torch.Tensor:
        """Return the loss of some runs; `overlapped` compares the statistics of the audio that the frames make."""
        quantized, real = self.runs.quantized[rows], self.runs.real[rows]
        made = self.runs.decoded[rows] + network(pad_edges(quantized))
        logs = ((values / self.weight)[..., : self.bins] for values in (made, real))
        ours, theirs = ((values.exp() - self.floor).clamp(min=0) for values in logs)
        if overlapped:
            ours = self.reanalysis.magnitudes(ours, self.runs.phases[rows].float())
            theirs = theirs[:, self.reanalysis.inner]
        measured = (statistics(magnitudes, self.filters, self.floor) for magnitudes in (ours, theirs))
        pairs = zip(STATISTICS_WEIGHTS, *measured, strict=True)
        return F.mse_loss(made, real) + sum(weight * (a - b).abs().mean() for weight, a, b in pairs)


def fit(
    runs: Runs,
    loss: PostfilterLoss,
    *,
    steps: int,
    seed: int,
    start: dict[str, torch.Tensor] | None = None,
    advance: Advance = lambda words: None,
) -> Postfilter:
    """Fit a post-filter. It corrects nothing if there are fewer than two runs or if held-out runs do not improve.

    Every `HELD_OUT`-th run is held out. The caller's random state does not change.

    Args:
        steps: optimizer steps, at least 1; fewer where every run would be seen more than `MAX_EPOCHS` times.
        start: weights to continue from.
        advance: called about `REPORTS` times.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = Postfilter(runs.quantized.shape[-1], runs.real.shape[-1])
        batches = _batches(len(runs.real), steps)
    if start:
        model.load_state_dict(start)
    else:
        model.scale.fill_(runs.quantized.std())
    if batches:
        _train(model, loss, batches, advance)
        held_out = torch.arange(0, len(runs.real), HELD_OUT)
        with torch.no_grad():
            improves = loss(model, held_out) <= loss(lambda vectors: torch.zeros(()), held_out)  # false for NaN
        if not improves:
            model.disable()
    return model.eval().requires_grad_(False)


def _batches(runs: int, steps: int) -> list[torch.Tensor]:
    """Return the run numbers of each training step, at most `steps` of them, in random order epoch by epoch."""
    train = torch.tensor([i for i in range(runs) if i % HELD_OUT], dtype=torch.int64)
    if not len(train):
        return []
    orders = [train[torch.randperm(len(train))] for _ in range(MAX_EPOCHS)]
    return [rows for order in orders for rows in order.split(BATCH)][:steps]


def _train(model: Postfilter, loss: PostfilterLoss, batches: list[torch.Tensor], advance: Advance) -> None:
    """Train with AdamW, a linear warm-up and cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    warmup = max(1, min(WARMUP_STEPS, len(batches)))
    rise = LinearLR(optimizer, 1 / warmup, total_iters=warmup)
    fall = CosineAnnealingLR(optimizer, max(1, len(batches) - warmup))
    schedule = SequentialLR(optimizer, [rise, fall], [warmup])
    overlapped_from = (1 - OVERLAPPED_FRACTION) * len(batches) if loss.reanalysis.frames > 2 else math.inf
    for step, rows in enumerate(batches):
        if step % math.ceil(len(batches) / REPORTS) == 0:
            advance("post-filter")
        error = loss(model, rows, overlapped=step >= overlapped_from)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()


def step_count(runs: int, max_steps: int) -> int:
    """Return the number of steps that `fit` takes with `runs` runs."""
    train = runs - math.ceil(runs / HELD_OUT)
    return min(max_steps, MAX_EPOCHS * math.ceil(train / BATCH))


class Reanalysis:
    """Compute the magnitudes that runs of `run` frames have after inverse STFT, overlap-add and another STFT."""

    def __init__(self, n_fft: int, hop: int, run: int) -> None:
        self.n_fft, self.hop = n_fft, hop
        self.window = torch.hann_window(n_fft)
        samples = n_fft + (run - 1) * hop
        self.gain = torch.from_numpy((1 / np.resize(overlapped_power(n_fft, hop), samples)).astype(np.float32))
        edge = -(-n_fft // hop) - 1
        self.frames = max(0, run - 2 * edge)
        self.inner = slice(edge, edge + self.frames)  # those that others overlap on both sides, as in endless audio

    def magnitudes(self, magnitude: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        """Return the new magnitudes `(R, frames, K)` of the inner frames for magnitudes and phases `(R, T, K)`.

        Phases are found as in generation, by Griffin-Lim, but starting from the true ones.
        """
        with torch.no_grad():
            phasors = torch.polar(torch.ones_like(phases), phases)
            for _ in range(PASSES):
                phasors = self._consistent(magnitude * phasors).sgn()
        return self._consistent(magnitude * phasors).abs()[:, self.inner]

    def _consistent(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the frames of the audio that complex frames `(R, T, K)`, low bins or all, overlap to."""
        parts = torch.fft.irfft(frames, self.n_fft) * self.window
        width = (1, len(self.gain))
        audio = F.fold(parts.transpose(1, 2), width, (1, self.n_fft), stride=(1, self.hop)).flatten(1) * self.gain
        return torch.fft.rfft(audio.unfold(1, self.n_fft, self.hop) * self.window)[..., : frames.shape[-1]]


def statistics(magnitude: torch.Tensor, filters: torch.Tensor, floor: float) -> tuple[torch.Tensor, ...]:
    """Return what runs `(R, T, K)` are compared by.

    These are the log magnitude of each mel band, sorted over time `(R, T, 48)`; its movement between frames, sorted
    `(R, T - 1, 48)`; the movement of the whole spectrum and its rises alone, sorted `(R, T - 1)`; and the mean and
    deviation of each band's movement `(R, 48)`.
    """
    bands = (magnitude.clamp(max=20) @ filters + BAND_FLOOR).log()
    moved, change = bands.diff(dim=1).abs(), (magnitude + floor).log().diff(dim=1)
    each = bands, moved, change.abs().mean(2), change.clamp(min=0).mean(2)
    return *(values.sort(1).values for values in each), moved.mean(1), moved.std(1)
