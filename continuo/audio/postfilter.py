"""A small network behind the quantiser: a run of quantised frames becomes the frames that they probably came from.

Frames are quantised one by one, so even a steady tone flickers from frame to frame; of everything that tells quantised
music from real music, that is heard most. The network sees the frames around each one and adds what is missing, also
beyond the principal components. (Post-filters are as old as speech coding: Chen and Gersho, Adaptive postfiltering for
quality enhancement of coded speech, 1995. This one is learned.) Its loss is the squared error of the weighted
logarithms, which alone would smooth the music, and the distance between how loud the bands are in it and in the real
frames, from the quietest to the loudest moment, and how much they and the whole spectrum move, from the stillest to the
liveliest. In the last steps of the fit it is not the frames that are compared so but what is heard of them, once they
are overlapped to audio.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from continuo.audio.stft import hann, mel_filters, overlapped_power

PAST, AHEAD = 3, 1  # frames that are seen before and after the one that is made
WIDTH, BATCH, LEARNING_RATE, WARMUP_STEPS, MAX_EPOCHS = 384, 16, 2e-3, 50, 50
SHARES = 0.5, 1.0, 1.0, 1.0, 0.5, 0.5  # of the loss, beside the squared error; in the order of `_sound`
MEL_BANDS, QUIET = 48, 4e-5  # the latter is added to the bands' magnitudes, over full scale
TOLD = 20  # times that a fit says how far it is
OVERLAPPED_SHARE, PASSES = 1 / 3, 2  # of the steps; Griffin-Lim passes from the true phases
HELD_OUT = 8  # every eighth run is not learned from: if it is not brought nearer to the truth, nothing is added at all


class Postfilter(nn.Module):
    """Residual for every frame from itself, `PAST` frames before and `AHEAD` after it.

    Args:
        components: P, of the quantised vectors.
        bins: K, of the frames that are made.
    """

    scale: torch.Tensor

    def __init__(self, components: int, bins: int) -> None:
        super().__init__()
        self.mix = nn.Linear(components * (PAST + 1 + AHEAD), WIDTH)
        self.inner, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, bins)
        nn.init.zeros_(self.out.weight)  # nothing learned, nothing added
        nn.init.zeros_(self.out.bias)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors `(..., T + PAST + AHEAD, P)` to residuals `(..., T, K)`."""
        windows = (vectors / self.scale).unfold(-2, PAST + 1 + AHEAD, 1)  # (..., T, P, PAST + 1 + AHEAD)
        return self.out(F.silu(self.inner(F.silu(self.mix(windows.flatten(-2))))))


def pad_edges(vectors: torch.Tensor) -> torch.Tensor:
    """`(..., T, P)` with its first frame repeated `PAST` times before it and its last one `AHEAD` times after it."""
    first = vectors[..., :1, :].expand(*vectors.shape[:-2], PAST, -1)
    last = vectors[..., -1:, :].expand(*vectors.shape[:-2], AHEAD, -1)
    return torch.cat([first, vectors, last], dim=-2)


def fit(
    quantised: torch.Tensor,
    dequantize: torch.Tensor,
    real: torch.Tensor,
    phases: torch.Tensor,
    weight: torch.Tensor,
    *,
    bins_hz: np.ndarray,
    floor: float,
    hop: int,
    steps: int,
    seed: int,
    start: dict[str, torch.Tensor] | None = None,
    advance: Callable[[str], None] = lambda words: None,
) -> Postfilter:
    """Fit a post-filter on runs of frames.

    Args:
        quantised: `(R, T, P)` runs of quantised vectors.
        look_up: `(R, T, K)` what they stand for without a post-filter, weighted logarithms of magnitude.
        real: `(R, T, K)` what they were made from.
        phases: `(R, T, K)` of the frames that they were made from, in radians.
        weight: `(K,)` that the logarithms were multiplied by.
        bins_hz: `(K,)` frequency of each bin.
        floor: that was added to magnitudes before their logarithms were taken.
        hop: samples per frame.
        steps: of training, at least 1; fewer where every run would be seen more than `MAX_EPOCHS` times.
        seed: of the start and the order; the caller's random state is left as it was.
        start: weights to go on from.
        advance: told what is being done, about `TOLD` times.
    """
    filters = torch.from_numpy(mel_filters(bins_hz, MEL_BANDS).T.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = Postfilter(quantised.shape[-1], real.shape[-1])
        if start:
            model.load_state_dict(start)
        else:
            model.scale.fill_(quantised.std())
        if len(real) < 2:
            return model.eval().requires_grad_(False)  # none is left to learn from
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        seen = torch.tensor([i for i in range(len(real)) if i % HELD_OUT])
        orders = [seen[torch.randperm(len(seen))] for _ in range(MAX_EPOCHS)]
    batches = [rows for order in orders for rows in order.split(BATCH)][:steps]
    overlap = Overlap(2 * (real.shape[-1] - 1), hop, real.shape[1])

    def distance(network: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, overlapped: bool) -> torch.Tensor:
        made = dequantize[rows] + network(pad_edges(quantised[rows]))
        ours, theirs = (((logs / weight).exp() - floor).clamp(min=0) for logs in (made, real[rows]))
        if overlapped:
            ours, theirs = overlap.heard(ours, phases[rows].float()), theirs[:, overlap.whole]
        pairs = zip(SHARES, _sound(ours, filters, floor), _sound(theirs, filters, floor), strict=True)
        return F.mse_loss(made, real[rows]) + sum(share * (a - b).abs().mean() for share, a, b in pairs)

    warm = max(1, min(WARMUP_STEPS, len(batches)))
    rate = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, len(batches) - warm)),
        ],
        [warm],
    )
    for step, rows in enumerate(batches):
        if step % math.ceil(len(batches) / TOLD) == 0:
            advance("post-filter")
        loss = distance(model, rows, step >= (1 - OVERLAPPED_SHARE) * len(batches) and overlap.frames > 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    model.eval().requires_grad_(False)
    unseen = torch.arange(0, len(real), HELD_OUT)
    nothing = distance(lambda vectors: torch.zeros(()), unseen, False)
    if not distance(model, unseen, False) <= nothing:  # also where it is no number
        nn.init.zeros_(model.out.weight)  # too little to learn from
        nn.init.zeros_(model.out.bias)
    return model


def step_count(runs: int, most: int) -> int:
    """How many steps `fit` takes with so many runs, if it may take `most`."""
    learned = runs - math.ceil(runs / HELD_OUT)
    return min(most, MAX_EPOCHS * math.ceil(learned / BATCH))


class Overlap:
    """What is heard of runs of `frames_in` magnitudes once they are overlapped to audio.

    Attributes:
        whole: the frames of a run that neighbours overlap on both sides as in an endless one.
        frames: how many these are.
    """

    def __init__(self, n_fft: int, hop: int, frames_in: int) -> None:
        self.n_fft, self.hop = n_fft, hop
        self.window = hann(n_fft)
        samples = n_fft + (frames_in - 1) * hop
        self.gain = torch.from_numpy((1 / np.resize(overlapped_power(n_fft, hop), samples)).astype(np.float32))
        edge = -(-n_fft // hop) - 1
        self.whole = slice(edge, max(edge, frames_in - edge))
        self.frames = max(0, frames_in - 2 * edge)

    def heard(self, magnitude: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        """Magnitudes `(R, T, K)` to those of their audio, of the whole frames, `(R, frames, K)`.

        The phases are found as they are when music is made, from the true ones `(R, T, K)` on.
        """
        with torch.no_grad():
            phasors = torch.polar(torch.ones_like(phases), phases)
            for _ in range(PASSES):
                phasors = self._consistent(magnitude * phasors).sgn()
        return self._consistent(magnitude * phasors).abs()[:, self.whole]

    def _consistent(self, frames: torch.Tensor) -> torch.Tensor:
        """The frames of the audio that complex frames `(R, T, K)` are overlapped to."""
        parts = torch.fft.irfft(frames, self.n_fft) * self.window
        width = (1, len(self.gain))
        audio = F.fold(parts.transpose(1, 2), width, (1, self.n_fft), stride=(1, self.hop)).flatten(1) * self.gain
        return torch.fft.rfft(audio.unfold(1, self.n_fft, self.hop) * self.window)


def _sound(magnitude: torch.Tensor, filters: torch.Tensor, floor: float) -> tuple[torch.Tensor, ...]:
    """What runs `(R, T, K)` are compared by.

    How loud each mel band is, from the quietest moment to the loudest one, `(R, T, 48)`; how much it moves, from the
    stillest to the liveliest, `(R, T - 1, 48)`, with mean and deviation, `(R, 48)`; how much the whole spectrum does,
    and its rises alone, `(R, T - 1)`.
    """
    bands = (magnitude.clamp(max=20) @ filters + QUIET).log()
    moved, change = bands.diff(dim=1).abs(), (magnitude + floor).log().diff(dim=1)
    each = bands, moved, change.abs().mean(2), change.clamp(min=0).mean(2)
    return *(values.sort(1).values for values in each), moved.mean(1), moved.std(1)
