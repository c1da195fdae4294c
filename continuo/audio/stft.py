"""The short-time Fourier transform, exact in both directions.

Frame `t` of `frames` is centred on sample `t * hop`; the audio is taken as silent outside. Magnitudes are those of
`torch.stft` under a periodic Hann window, not scaled. A piece of N samples has `1 + ceil(N / hop)` frames, so that
its last sample too lies under a whole window.
"""

import math

import numpy as np
import scipy.fft
import torch


def hann(n_fft: int) -> torch.Tensor:
    """The periodic Hann window, `(n_fft,)` float32."""
    return torch.hann_window(n_fft)


def frame_count(samples: int, hop: int) -> int:
    """Frames of a piece of `samples` samples.

    >>> frame_count(1000, 256)
    5
    """
    return 1 + math.ceil(samples / hop)


def spectrum(windows_of: np.ndarray, n_fft: int, hop: int) -> torch.Tensor:
    """Complex frames `(T, K)` of audio that holds its padding already: frame `t` covers `[t * hop, t * hop + n_fft)`.

    Shape: `(n_fft + (T - 1) * hop,)` float32 to `(T, n_fft // 2 + 1)` complex64.
    """
    audio = torch.as_tensor(windows_of, dtype=torch.float32)
    return torch.stft(audio, n_fft, hop, window=hann(n_fft), center=False, return_complex=True).T


def to_frames(complex_frames: torch.Tensor) -> torch.Tensor:
    """Complex `(T, K)` to `[magnitude | phase]` `(T, 2K)` float32, phase in radians."""
    return torch.cat([complex_frames.abs(), complex_frames.angle()], dim=-1)


def from_frames(frames: torch.Tensor) -> torch.Tensor:
    """`[magnitude | phase]` `(T, 2K)` to complex `(T, K)`."""
    magnitude, phase = frames.chunk(2, dim=-1)
    return torch.polar(magnitude.float(), phase.float())


def check_hop(n_fft: int, hop: int) -> None:
    """Refuse a hop at which the overlapped squared Hann windows come near zero: the inverse would amplify rounding.

    The least divisor must reach 0.01, which allows hops up to about 0.83 of the window.

    Raises:
        ValueError: names the hop and the largest fraction of the window that works.
    """
    if n_fft < 4 or n_fft % 2:
        raise ValueError(f"n_fft must be even and at least 4, not {n_fft}")
    if hop < 1 or overlapped_power(n_fft, hop).min() < 0.01:
        raise ValueError(
            f"hop {hop} does not suit n_fft {n_fft}: choose 1 to {int(0.8 * n_fft)} samples, best n_fft / 4"
        )


def overlapped_power(n_fft: int, hop: int) -> np.ndarray:
    """Sum of the squared windows that overlap at each position between two hops, `(hop,)` float64."""
    squared = torch.hann_window(n_fft, dtype=torch.float64).square().numpy()
    return np.pad(squared, (0, -n_fft % hop)).reshape(-1, hop).sum(axis=0)


def share_of_earlier(n_fft: int, hop: int) -> np.ndarray:
    """Sum of the squared windows of all frames up to time 0, over the last `n_fft - hop` samples before it.

    The overlap-add of a signal's own frames is the signal times this. The stretch starts `hop` samples into the last of
    these frames, `2 * hop` into the one before it, and so on.

    Shape: `(n_fft - hop,)` float64.
    """
    squared = torch.hann_window(n_fft, dtype=torch.float64).square().numpy()
    return np.sum([np.pad(squared[start:], (0, start - hop)) for start in range(hop, n_fft, hop)], axis=0)


class OverlapAdd:
    """Inverse STFT frame by frame, continuing audio: chunked output equals whole output, sample for sample.

    Griffin and Lim, Signal estimation from modified short-time Fourier transform, 1984: the least-squares inverse
    divides the overlapped windowed frames by the overlapped squared windows. Time 0 is the end of the audio continued;
    frame `j = 1, 2, ...` covers `[j * hop - n_fft, j * hop)`, so output starts `n_fft - hop` samples before time 0,
    where it is the overlap-add of the prompt's own frames and the first generated ones: no click can arise. At the end
    the divisor of a full overlap is kept, so that the stream fades out instead of dividing by a vanishing window.

    Args:
        n_fft: even window length in samples; hop: as `check_hop` allows.
        tail: the last `n_fft` samples that came before, or None for silence.
    """

    def __init__(self, n_fft: int, hop: int, tail: np.ndarray | None = None) -> None:
        check_hop(n_fft, hop)
        self.n_fft, self.hop = n_fft, hop
        window = torch.hann_window(n_fft, dtype=torch.float64).numpy()
        divisor = np.resize(overlapped_power(n_fft, hop), n_fft)  # at offset i of a frame, whatever the frame
        self.synthesis = (window / divisor).astype(np.float32)
        self.sums = np.zeros(n_fft, np.float32)
        if tail is not None:
            keep = n_fft - hop
            self.sums[:keep] = tail[hop:] * share_of_earlier(n_fft, hop) / divisor[:keep]

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Add complex frames, `(n, K)` or one `(K,)`; returns the `n * hop` samples that no later frame touches."""
        parts = np.atleast_2d(frames)
        if not len(parts):
            return np.zeros(0, np.float32)
        ready = len(parts) * self.hop
        sums = np.concatenate([self.sums, np.zeros(ready, np.float32)])
        for i, part in enumerate(scipy.fft.irfft(parts, self.n_fft) * self.synthesis):
            sums[i * self.hop : i * self.hop + self.n_fft] += part
        self.sums = sums[ready:]
        return sums[:ready]

    def finish(self) -> np.ndarray:
        """The `n_fft - hop` samples that remain; the stream is empty afterwards."""
        rest, self.sums = self.sums[: self.n_fft - self.hop].copy(), np.zeros(self.n_fft, np.float32)
        return rest


def inverse(complex_frames: torch.Tensor, n_fft: int, hop: int) -> np.ndarray:
    """Whole frames `(T, K)`, centred on multiples of `hop`, to `((T - 1) * hop,)` samples; exact, edges included."""
    return torch.istft(complex_frames.T, n_fft, hop, window=hann(n_fft), length=(len(complex_frames) - 1) * hop).numpy()


def mel_filters(bins_hz: np.ndarray, count: int, low_hz: float = 40.0, high_hz: float = 8000.0) -> np.ndarray:
    """Triangles evenly spaced in mel (2595 log10(1 + f / 700 Hz)), `(count, K)` for bins at `bins_hz` `(K,)`."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, min(high_hz, bins_hz[-1])))
    corners = 700 * (10 ** (np.linspace(low, high, count + 2) / 2595) - 1)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.clip(np.minimum((bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre)), 0, None)
