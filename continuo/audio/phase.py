"""Phase reconstruction, a few frames at a time: STFT magnitudes become audio that continues a prompt.

Conventions: `torch.stft` with a periodic Hann window and no normalization, K = n_fft // 2 + 1 bins. Time 0 is the end
of the prompt, and generated frame j = 1, 2, ... covers the samples [j * hop - n_fft, j * hop):

    prompt  ......|----- tail -----|
                  |--- frame 0 ----|            the last frame of the prompt: real magnitude, real phase
                     |--- frame 1 ----|         hop samples later; overlaps the prompt at the join
                        |--- frame 2 ----|

Method: phase-gradient heap integration in its real-time form (Prusa and Sondergaard, "Real-Time Spectrogram Inversion
Using Phase Gradient Heap Integration", DAFx 2016), solved without a heap by `_sources`; then passes of the fast
Griffin-Lim algorithm over the frames that are open (Perraudin, Balazs and Sondergaard, WASPAA 2013; RTISI-LA: Zhu,
Beauregard and Wyse, IEEE TASLP 2007). The offline result is by definition the streamed one.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from continuo.audio.stft import OverlapAdd, overlapped_power, share_of_earlier

Floats = NDArray[np.float32]
Complexes = NDArray[np.complexfloating]
_TINY = np.float32(1e-6)  # added to magnitudes before their logarithm
_GAUSSIAN = 0.25645  # gamma / n_fft^2 of the Gaussian window nearest to a Hann window (Prusa, 2016)
_MIN_MAGNITUDE = np.float32(1e-10)  # smaller bins have no phase
_REACH = 32  # bins; a bin takes its phase from less than this distance
BLOCK, LOOK_AHEAD, PASSES, MOMENTUM = 16, 1, 8, 0.9


class PhaseStream:
    """Turn magnitude frames into complex frames while they arrive; `OverlapAdd` makes audio of them.

    Args:
        n_fft: window length in samples, even, at least 4.
        hop: samples per frame, 1 <= hop <= n_fft // 2.
        tail: the last n_fft samples (float32) of the prompt; None continues from silence.
        block: frames that become final together, >= 1. A larger block takes less time per frame and adds latency.
        look_ahead: frames after a block that are known, >= 0. Latency: (block - 1 + look_ahead) * hop samples more.
        imagined: frames after those, >= 0, assumed to equal the newest one; they are not output and add no latency.
        passes: Griffin-Lim passes for each block, >= 0.
        momentum: 0 to 1, how far a pass is extrapolated along its last change; 0 is plain Griffin-Lim.

    ValueError if an argument is out of range, or the tail does not hold n_fft finite samples.
    """

    def __init__(
        self,
        n_fft: int,
        hop: int,
        *,
        tail: Floats | None = None,
        block: int = BLOCK,
        look_ahead: int = LOOK_AHEAD,
        imagined: int = 0,
        passes: int = PASSES,
        momentum: float = MOMENTUM,
    ) -> None:
        if n_fft < 4 or n_fft % 2:
            raise ValueError(f"n_fft must be even and at least 4, got {n_fft}")
        if not 1 <= hop <= n_fft // 2:
            raise ValueError(f"hop must lie in 1 ... n_fft // 2 = {n_fft // 2}, got {hop}: frames must overlap by half")
        if block < 1:
            raise ValueError(f"block must be >= 1, got {block}")
        if min(look_ahead, imagined, passes) < 0:
            raise ValueError(f"look_ahead, imagined and passes must be >= 0, got {look_ahead}, {imagined} and {passes}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in 0 ... 1, got {momentum}: beyond 1 the passes diverge")
        self.n_fft, self.hop, self.block, self.look_ahead, self.imagined = n_fft, hop, block, look_ahead, imagined
        self.passes, self.momentum = passes, np.float32(momentum)
        self._window = torch.hann_window(n_fft).numpy()
        power = np.resize(overlapped_power(n_fft, hop), n_fft)  # the same under every frame
        self._analysis = (self._window / power).astype(np.float32)
        self._joining = 0 if tail is None else n_fft // hop  # coming frames that overlap the prompt
        # The overlap-add of the committed frames, beginning at the start of the oldest open frame.
        self._sum: Floats = np.zeros(n_fft + (block + look_ahead + imagined - 1) * hop, np.float32)
        self._open: list[Floats] = []  # magnitudes (K,) that wait for phases, oldest first
        self._level, self._phase = self._continue_from(tail)  # (1, K) and (K,) of the last committed frame

    def push(self, magnitude: Floats) -> Complexes:
        """Add one magnitude frame `(K,)` and return the complex frames `(n, K)` that are final now.

        Once the look-ahead is filled, n is `block` with every `block`-th push and 0 otherwise; frames that overlap the
        prompt come one by one. ValueError if the shape is wrong, or a value is negative or not finite.
        """
        magnitude = np.asarray(magnitude, np.float32)
        bins = self.n_fft // 2 + 1
        if magnitude.shape != (bins,):
            raise ValueError(f"magnitude must have shape ({bins},) for n_fft {self.n_fft}, got {magnitude.shape}")
        if not 0 <= magnitude.min() <= magnitude.max() < np.inf:
            raise ValueError("magnitude must be finite and >= 0: is this a logarithm that was not undone?")
        self._open.append(magnitude)
        block = 1 if self._joining else self.block
        return self._commit(block if len(self._open) == block + self.look_ahead else 0)

    def finish(self) -> Complexes:
        """Commit the open frames and return them, `(n, K)`."""
        return self._commit(len(self._open))

    def _continue_from(self, tail: Floats | None) -> tuple[Floats, Floats]:
        """Put the prompt's part of the overlap into the sum; return level and phase of its last frame."""
        bins = self.n_fft // 2 + 1
        if tail is None:
            return np.full((1, bins), np.log(_TINY), np.float32), np.zeros(bins, np.float32)
        tail = np.asarray(tail, np.float32)
        if tail.shape != (self.n_fft,) or not np.all(np.isfinite(tail)):
            raise ValueError(f"tail must hold {self.n_fft} finite samples, got shape {tail.shape}")
        self._sum[: self.n_fft - self.hop] = tail[self.hop :] * share_of_earlier(self.n_fft, self.hop)
        spectrum: Complexes = scipy.fft.rfft(tail * self._window)
        return levels(np.abs(spectrum[None])), centered(np.angle(spectrum))

    def _commit(self, count: int) -> Complexes:
        """Close the `count` oldest open frames and return them, `(count, K)`."""
        if count == 0:
            return np.zeros((0, self.n_fft // 2 + 1), np.complex64)
        self._joining = max(0, self._joining - count)
        magnitudes = np.stack([*self._open, *self._open[-1:] * self.imagined])
        level = np.concatenate([self._level, levels(magnitudes)])
        guess = magnitudes * phasors(integrate_phases(level, self._phase, self.n_fft, self.hop))
        frames = self._consistent(magnitudes, guess)[:count]
        self._level, self._open = level[count : count + 1], self._open[count:]
        self._phase = centered(np.angle(frames[-1]))
        self._add(frames, self._sum)
        self._sum = np.concatenate([self._sum[count * self.hop :], np.zeros(count * self.hop, np.float32)])
        return frames

    def _add(self, frames: Complexes, signal: Floats) -> None:
        """Overlap-add the windowed time signals of complex frames `(n, K)` to `signal`, from its start."""
        parts = scipy.fft.irfft(frames, self.n_fft)
        parts *= self._window
        for i, part in enumerate(parts):
            signal[i * self.hop : i * self.hop + self.n_fft] += part

    def _consistent(self, magnitudes: Floats, frames: Complexes) -> Complexes:
        """Return the open frames `(n, K)` after the passes; committed frames do not change.

        The signal is divided by the full sum of windows although later frames are missing. That tapers the newest
        frames, so that they weigh less than those that more neighbors confirm.
        """
        span, before = self.n_fft + (len(frames) - 1) * self.hop, None
        signal = np.empty(span, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.n_fft)[:: self.hop]  # a view of `signal`
        for _ in range(self.passes):
            now = self._sum[:span].copy()
            self._add(frames, now)
            signal[:] = now if before is None else now + self.momentum * (now - before)
            before = now
            spectrum: Complexes = scipy.fft.rfft(windows * self._analysis)
            size = np.abs(spectrum)
            known = None if size.min() > _MIN_MAGNITUDE else size > _MIN_MAGNITUDE
            spectrum *= magnitudes / np.maximum(size, _MIN_MAGNITUDE)
            frames = spectrum if known is None else np.where(known, spectrum, frames)
        return frames


def invert(magnitude: Floats, n_fft: int, hop: int, tail: Floats | None = None) -> Floats:
    """Turn all magnitude frames `(T, K)` into audio `(n_fft - hop + T * hop,)` by one `PhaseStream`.

    The first n_fft - hop samples replace the last ones of the tail `(n_fft,)`. Errors are those of `PhaseStream`.
    """
    stream, overlap = PhaseStream(n_fft, hop, tail=tail), OverlapAdd(n_fft, hop, tail)
    frames = [*map(stream.push, magnitude), stream.finish()]
    return np.concatenate([*map(overlap.push, frames), overlap.finish()])


def levels(magnitude: Floats) -> Floats:
    """Return the logarithms of magnitudes, of the same shape."""
    return np.log(magnitude + _TINY)


def centered(phase: Floats) -> Floats:
    """Convert phases `(..., K)` relative to the start of each frame to phases relative to its middle."""
    return phase + np.float32(np.pi) * (np.arange(phase.shape[-1], dtype=np.float32) % 2)


def phasors(phase: Floats) -> Complexes:
    """Return unit phasors relative to the start of each frame for phases `(..., K)` relative to its middle."""
    units = np.empty(phase.shape, np.complex64)
    np.cos(phase, out=units.real)
    np.sin(phase, out=units.imag)
    units[..., 1::2] *= -1  # half a frame turns every other bin by an odd multiple of pi
    return units


def integrate_phases(level: Floats, phase: Floats, n_fft: int, hop: int) -> Floats:
    """Return phases `(T, K)` of frames by integrating the changes of their levels, from the phase of the frame before.

    Under a Gaussian window, log magnitude and phase of an STFT have the same gradients, crosswise: along frequency the
    phase changes as the level does in time, and in time as the level does along frequency, plus the bin's own
    frequency. Each bin continues from the most reliable point, itself one frame before or a neighbor, which `_sources`
    finds. The last frame has no successor, so its change in time is taken from its predecessor.

    Shape: level `(1 + T, K)`, the frame before and T frames; phase `(K,)` of the frame before, relative to its middle.
    """
    bins = level.shape[-1]
    gamma = _GAUSSIAN * n_fft**2
    rise = np.empty_like(level)  # per frame
    rise[1:-1] = (level[2:] - level[:-2]) / 2
    rise[-1] = level[-1] - level[-2]
    delay = rise[1:] * np.float32(-gamma / (hop * n_fft))  # radians per bin
    turn = np.gradient(level[:-1] + level[1:], axis=-1) * np.float32(hop * n_fft / gamma / 2)  # radians per frame
    turn += ((2 * np.pi * hop / n_fft * np.arange(bins)) % (2 * np.pi)).astype(np.float32)  # the bin's own frequency
    along = np.zeros_like(delay)  # from the lowest bin on
    np.cumsum((delay[:, :-1] + delay[:, 1:]) / 2, axis=-1, out=along[:, 1:])
    source = _sources(level[:-1], level[1:])
    turn = (turn - along).take(source) + along
    phases = np.concatenate([phase[None], turn])
    for t, bins_before in enumerate(source):
        phases[t + 1] += phases.take(bins_before)
    return phases[1:]


def _sources(before: Floats, now: Floats) -> NDArray[np.intp]:
    """Return the bin of the frame before from which heap integration reaches each bin, directly or through neighbors.

    A heap takes the loudest known point and continues to its unknown neighbors. So a path to a bin is as loud as its
    quietest point, and the loudest path wins. From below, `best[k] = max(before[k], min(best[k - 1], now[k - 1]))`.
    Applied twice, this is a function of the same kind, so all bins are solved at once, over 1, 2, 4, ... bins.

    Shape: levels `(T, K)` of frames and of their successors, to indices `t * K + k` `(T, K)` into the former.
    """
    bins, places = before.shape[-1], np.arange(before.size)

    def from_below(before: Floats, now: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Return the loudness of the best path to each bin from below, and the index where it begins, `(T, K)`."""
        level, edge = before.ravel(), np.empty(before.size, np.float32)
        edge[1:], edge[::bins] = now.ravel()[:-1], -np.inf  # rows are chained, and no path leads from one to the next
        best, path, reach = level.copy(), edge.copy(), 1
        while reach < min(_REACH, bins):
            np.maximum(best[reach:], np.minimum(best[:-reach], path[reach:]), out=best[reach:])
            path[reach:] = np.minimum(path[:-reach], path[reach:])
            reach *= 2
        begins = np.zeros(before.size, np.intp)  # 0 where the path comes from the bin below
        begins[1:] = places[1:] * (level[1:] >= np.minimum(best[:-1], edge[1:]))
        return best.reshape(before.shape), np.maximum.accumulate(begins).reshape(before.shape)

    below, source = from_below(before, now)
    above, mirrored = from_below(before[:, ::-1], now[:, ::-1])
    ends = 2 * places[::bins, None] + bins - 1  # the first index of a row plus its last one
    return np.where(above[:, ::-1] > below, ends - mirrored[:, ::-1], source)
