"""A small network behind the quantiser: a run of quantised frames becomes the frames that they probably came from.

Frames are quantised one by one, so even a steady tone flickers from frame to frame; of everything that tells quantised
music from real music, that is heard most. The network sees the frames around each one and adds what is missing, also
beyond the principal components. (Post-filters are as old as speech coding: Chen and Gersho, Adaptive postfiltering for
quality enhancement of coded speech, 1995. This one is learned.) Its loss is the squared error of the weighted
logarithms, which alone would smooth the music, and the distance between how much each mel band moves in it and in the
real frames.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from continuo.stft import mel_filters

PAST, AHEAD = 3, 1  # frames that are seen before and after the one that is made
WIDTH, BATCH, LEARNING_RATE, WARMUP_STEPS, MOST_EPOCHS = 384, 16, 2e-3, 50, 50
MOVEMENT_SHARE, MEL_BANDS = 0.5, 48
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


def with_edges(vectors: torch.Tensor) -> torch.Tensor:
    """`(..., T, P)` with its first frame repeated `PAST` times before it and its last one `AHEAD` times after it."""
    first = vectors[..., :1, :].expand(*vectors.shape[:-2], PAST, -1)
    last = vectors[..., -1:, :].expand(*vectors.shape[:-2], AHEAD, -1)
    return torch.cat([first, vectors, last], dim=-2)


def fit(
    quantised: torch.Tensor,
    look_up: torch.Tensor,
    real: torch.Tensor,
    weight: torch.Tensor,
    *,
    bins_hz: np.ndarray,
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
        weight: `(K,)` that the logarithms were multiplied by.
        bins_hz: `(K,)` frequency of each bin.
        steps: of training, at least 1; fewer where every run would be seen more than `MOST_EPOCHS` times.
        seed: of the start and the order; the caller's random state is left as it was.
        start: weights to go on from.
        advance: told once what is being done.
    """
    advance("post-filter")
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
        orders = [seen[torch.randperm(len(seen))] for _ in range(MOST_EPOCHS)]
    batches = [rows for order in orders for rows in order.split(BATCH)][:steps]

    def distance(network: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        made = look_up[rows] + network(with_edges(quantised[rows]))
        ours, theirs = (_movement(logs / weight, filters) for logs in (made, real[rows]))
        movement = sum((a - b).abs().mean() for a, b in zip(ours, theirs, strict=True))
        return F.mse_loss(made, real[rows]) + MOVEMENT_SHARE * movement

    warm = max(1, min(WARMUP_STEPS, len(batches)))
    rate = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, len(batches) - warm)),
        ],
        [warm],
    )
    for rows in batches:
        loss = distance(model, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    model.eval().requires_grad_(False)
    unseen = torch.arange(0, len(real), HELD_OUT)
    if not distance(model, unseen) <= distance(lambda vectors: torch.zeros(()), unseen):  # also where it is no number
        nn.init.zeros_(model.out.weight)  # too little to learn from
        nn.init.zeros_(model.out.bias)
    return model


def _movement(log_magnitude: torch.Tensor, filters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much every mel band moves from frame to frame in each run, mean and deviation: `(R, T, K)` to `(R, 48)`."""
    mel = (log_magnitude.clamp(max=3).exp() @ filters + 1e-4).log()
    steps = mel.diff(dim=1)
    return steps.abs().mean(1), steps.std(1)
