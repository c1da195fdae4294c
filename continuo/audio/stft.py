"""The short-time Fourier transform, exact in both directions.

Frame `t` of a piece is centered on sample `t * hop`, with silence outside the piece. Magnitudes are those of
`torch.stft` with a periodic Hann window, not scaled. A piece of N samples has `1 + ceil(N / hop)` frames, so that all
windows that reach its last sample are there.
"""

import numpy as np
import scipy.fft
import torch


def spectrum(audio: np.ndarray, n_fft: int, hop: int) -> torch.Tensor:
    """Return the complex frames of audio without padding it: frame `t` covers samples `[t * hop, t * hop + n_fft)`.

    Shape: `(n_fft + (T - 1) * hop,)` float32 to `(T, n_fft // 2 + 1)` complex64; with two channels `(..., 2)` to
    `(T, 2, n_fft // 2 + 1)`.
    """
    samples = torch.as_tensor(audio, dtype=torch.float32).movedim(0, -1)
    window = torch.hann_window(n_fft)
    return torch.stft(samples, n_fft, hop, window=window, center=False, return_complex=True).movedim(-1, 0)


def to_frames(complex_frames: torch.Tensor) -> torch.Tensor:
    """Convert complex frames `(T, K)` to `[magnitude | phase]` `(T, 2K)` float32, phase in radians."""
    return torch.cat([complex_frames.abs(), complex_frames.angle()], dim=-1)


def from_frames(frames: torch.Tensor) -> torch.Tensor:
    """Convert `[magnitude | phase]` frames `(..., 2K)`, phase in radians, to complex64 frames `(..., K)`."""
    magnitude, phase = frames.chunk(2, dim=-1)
    return torch.polar(magnitude.float(), phase.float())


def check_hop(n_fft: int, hop: int) -> None:
    """Refuse a hop at which the overlapped squared Hann windows come near zero, where the inverse amplifies rounding.

    Their sum must reach 0.01 everywhere, which allows hops up to about 0.83 of the window. ValueError if the hop is
    larger or below 1, or n_fft is odd or below 4.
    """
    if n_fft < 4 or n_fft % 2:
        raise ValueError(f"n_fft must be even and at least 4, not {n_fft}")
    if hop < 1 or overlapped_power(n_fft, hop).min() < 0.01:
        raise ValueError(
            f"hop {hop} does not suit n_fft {n_fft}: choose 1 to {int(0.8 * n_fft)} samples, best n_fft / 4"
        )


def overlapped_power(n_fft: int, hop: int) -> np.ndarray:
    """Return the sum of the squared windows that overlap at each position between two hops, `(hop,)` float64."""
    squared = torch.hann_window(n_fft, dtype=torch.float64).square().numpy()
    return np.pad(squared, (0, -n_fft % hop)).reshape(-1, hop).sum(axis=0)


def share_of_earlier(n_fft: int, hop: int) -> np.ndarray:
    """Return what a prompt's own frames add to its last `n_fft - hop` samples: one sum of squared windows per sample.

    Frames lie `hop` samples apart, and the last one ends with the prompt. So the end of the prompt is covered by fewer
    frames than its middle, and the first frames of the continuation complete the sums to `overlapped_power`. These
    samples of the prompt times the sums, `(n_fft - hop,)` float64, are the overlap-add of the prompt's windowed frames.
    """
    squared = torch.hann_window(n_fft, dtype=torch.float64).square().numpy()
    return np.sum([np.pad(squared[start:], (0, start - hop)) for start in range(hop, n_fft, hop)], axis=0)


class OverlapAdd:
    """Invert the STFT frame by frame, continuing audio; chunked output equals whole output, sample for sample.

    The least-squares inverse divides the overlapped windowed frames by the overlapped squared windows (Griffin and Lim,
    Signal estimation from modified short-time Fourier transform, 1984). Time 0 is the end of the prompt, and frame
    `j = 1, 2, ...` covers `[j * hop - n_fft, j * hop)`. So the output starts `n_fft - hop` samples before time 0, where
    it blends the prompt's own frames with the first new ones without a click. At the end the divisor stays that of a
    full overlap, so that the stream fades out. `tail` holds the last `n_fft` samples of the prompt; None is silence.
    """

    def __init__(self, n_fft: int, hop: int, tail: np.ndarray | None = None) -> None:
        check_hop(n_fft, hop)
        self.n_fft, self.hop = n_fft, hop
        window = torch.hann_window(n_fft, dtype=torch.float64).numpy()
        divisor = np.resize(overlapped_power(n_fft, hop), n_fft)  # at offset i of every frame
        self.synthesis = (window / divisor).astype(np.float32)
        self.sums = np.zeros(n_fft, np.float32)
        if tail is not None:
            keep = n_fft - hop
            self.sums[:keep] = tail[hop:] * share_of_earlier(n_fft, hop) / divisor[:keep]

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Add complex frames, `(n, K)` or one `(K,)`, and return the `n * hop` samples that no later frame changes."""
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
        """Return the remaining `n_fft - hop` samples; the stream is empty afterwards."""
        rest, self.sums = self.sums[: self.n_fft - self.hop].copy(), np.zeros(self.n_fft, np.float32)
        return rest


def inverse(complex_frames: torch.Tensor, n_fft: int, hop: int) -> np.ndarray:
    """Invert all frames `(T, K)` of a piece to `((T - 1) * hop,)` samples; exact, edges included."""
    return torch.istft(
        complex_frames.T, n_fft, hop, window=torch.hann_window(n_fft), length=(len(complex_frames) - 1) * hop
    ).numpy()


def mel_filters(bins_hz: np.ndarray, count: int, low_hz: float = 40.0, high_hz: float = 8000.0) -> np.ndarray:
    """Return triangular filters evenly spaced in mel, 2595 log10(1 + f / 700 Hz): `(count, K)` at `bins_hz`."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (low_hz, min(high_hz, bins_hz[-1])))
    corners = 700 * (10 ** (np.linspace(low, high, count + 2) / 2595) - 1)
    left, center, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.clip(np.minimum((bins_hz - left) / (center - left), (right - bins_hz) / (right - center)), 0, None)
