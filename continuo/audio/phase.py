"""Phase reconstruction, a few frames at a time: STFT magnitudes become audio that continues what was already heard.

Conventions: `torch.stft` with a periodic Hann window and no normalisation, K = n_fft // 2 + 1 bins. Time 0 is the end
of the audio being continued, and generated frame j = 1, 2, ... covers the samples [j * hop - n_fft, j * hop):

    heard audio  ......|----- tail -----|
                       |--- frame 0 ----|            the last frame of the prompt: real magnitude, real phase
                          |--- frame 1 ----|         hop samples later; overlaps the prompt: the seam
                             |--- frame 2 ----|

Method: phase-gradient heap integration in its real-time form (Prusa and Sondergaard, "Real-Time Spectrogram Inversion
Using Phase Gradient Heap Integration", DAFx 2016), then passes of the fast Griffin-Lim algorithm over the frames that
are open (Perraudin, Balazs and Sondergaard, WASPAA 2013; RTISI-LA: Zhu, Beauregard and Wyse, IEEE TASLP 2007). The heap
is not one: see `_sources`. The offline result is by definition the streamed one, so chunked and whole output are the
same samples.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from continuo.audio.stft import OverlapAdd, hann, overlapped_power, share_of_earlier

Floats = NDArray[np.float32]
Complexes = NDArray[np.complexfloating]
_TINY = np.float32(1e-6)
_GAUSSIAN = 0.25645  # of the Gaussian window nearest to a Hann window: gamma over n_fft squared (Prusa, 2016)
_LEAST = np.float32(1e-10)
_REACH = 32  # bins less than which away a bin may take its phase
BLOCK, LOOK_AHEAD, PASSES, MOMENTUM = 16, 1, 8, 0.9


class PhaseStream:
    """Turns magnitude frames into complex frames while they arrive; `OverlapAdd` makes audio of them.

    Args:
        n_fft: window length in samples, even, at least 4.
        hop: samples per frame, 1 <= hop <= n_fft // 2.
        tail: the last n_fft samples (float32) of the audio being continued; None continues from silence.
        block: frames that become final together, >= 1. More cost less each, and wait longer.
        look_ahead: frames that are seen after a block, >= 0. Latency: (block - 1 + look_ahead) * hop samples more.
        imagined: frames after those, >= 0, taken to be like the newest one and never heard. They cost no latency.
        passes: over these frames for each block, >= 0.
        momentum: 0 ... 1, how far a pass is extrapolated along its last change; 0 is plain Griffin-Lim.

    Raises:
        ValueError: impossible n_fft, hop, block, look_ahead, passes or momentum; a tail without n_fft finite samples.
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
        self.n_fft, self.hop, self.block, self.look_ahead = n_fft, hop, block, look_ahead
        self.imagined = imagined
        self.passes, self.momentum = passes, np.float32(momentum)
        self._window = hann(n_fft).numpy()
        power = np.resize(overlapped_power(n_fft, hop), n_fft)  # sum of squared windows, the same under every frame
        self._analysis = (self._window / power).astype(np.float32)
        self._seam = 0 if tail is None else n_fft // hop  # frames to come that overlap the prompt
        # The overlap-add of the committed frames, from the start of the oldest open frame on.
        self._sum: Floats = np.zeros(n_fft + (block + look_ahead + imagined - 1) * hop, np.float32)
        self._open: list[Floats] = []  # magnitudes without phases yet, oldest first
        self._level, self._phase = self._continue_from(tail)  # of the last committed frame, (1, K) and (K,)

    def push(self, magnitude: Floats) -> Complexes:
        """Adds one frame and returns the complex frames that are final now.

        Args:
            magnitude: raw STFT magnitude, finite and >= 0.

        Shape:
            magnitude: (K,). Returns (n, K): n = block with every block-th push once the look-ahead is filled, else 0;
            frames that overlap the prompt come one by one.

        Raises:
            ValueError: wrong shape, or values that are negative or not finite.
        """
        magnitude = np.asarray(magnitude, np.float32)
        bins = self.n_fft // 2 + 1
        if magnitude.shape != (bins,):
            raise ValueError(f"magnitude must have shape ({bins},) for n_fft {self.n_fft}, got {magnitude.shape}")
        if not 0 <= magnitude.min() <= magnitude.max() < np.inf:
            raise ValueError("magnitude must be finite and >= 0: is this a logarithm that was never undone?")
        self._open.append(magnitude)
        block = 1 if self._seam else self.block
        return self._commit(block if len(self._open) == block + self.look_ahead else 0)

    def finish(self) -> Complexes:
        """Commits the open frames and returns them, (n, K)."""
        return self._commit(len(self._open))

    def _continue_from(self, tail: Floats | None) -> tuple[Floats, Floats]:
        """Puts the prompt's share of the seam into the sum; level and phase of its last frame."""
        bins = self.n_fft // 2 + 1
        if tail is None:
            return np.full((1, bins), np.log(_TINY), np.float32), np.zeros(bins, np.float32)
        tail = np.asarray(tail, np.float32)
        if tail.shape != (self.n_fft,) or not np.all(np.isfinite(tail)):
            raise ValueError(f"tail must hold {self.n_fft} finite samples, got shape {tail.shape}")
        self._sum[: self.n_fft - self.hop] = tail[self.hop :] * share_of_earlier(self.n_fft, self.hop)
        spectrum: Complexes = scipy.fft.rfft(tail * self._window)
        return levels(np.abs(spectrum[None])), centred(np.angle(spectrum))

    def _commit(self, count: int) -> Complexes:
        """Closes the `count` oldest open frames and returns them, (count, K)."""
        if count == 0:
            return np.zeros((0, self.n_fft // 2 + 1), np.complex64)
        self._seam = max(0, self._seam - count)
        magnitudes = np.stack([*self._open, *self._open[-1:] * self.imagined])
        level = np.concatenate([self._level, levels(magnitudes)])
        guess = magnitudes * phasors(integrated(level, self._phase, self.n_fft, self.hop))
        frames = self._consistent(magnitudes, guess)[:count]
        self._level, self._open = level[count : count + 1], self._open[count:]
        self._phase = centred(np.angle(frames[-1]))
        self._add(frames, self._sum)
        self._sum = np.concatenate([self._sum[count * self.hop :], np.zeros(count * self.hop, np.float32)])
        return frames

    def _add(self, frames: Complexes, signal: Floats) -> None:
        """Adds the windowed time signals of complex frames `(n, K)` to `signal`, from its start on."""
        parts = scipy.fft.irfft(frames, self.n_fft)
        parts *= self._window
        for i, part in enumerate(parts):
            signal[i * self.hop : i * self.hop + self.n_fft] += part

    def _consistent(self, magnitudes: Floats, frames: Complexes) -> Complexes:
        """Open frames `(n, K)` after the passes; the committed ones stay as they are.

        The signal is divided by the full sum of windows although the frames to come are missing. That tapers the newest
        frames, so that they weigh less than those that more neighbours confirm.
        """
        span, before = self.n_fft + (len(frames) - 1) * self.hop, None
        signal = np.empty(span, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.n_fft)[:: self.hop]  # as it is in each pass
        for _ in range(self.passes):
            now = self._sum[:span].copy()
            self._add(frames, now)
            signal[:] = now if before is None else now + self.momentum * (now - before)  # its frames go as far
            before = now
            spectrum: Complexes = scipy.fft.rfft(windows * self._analysis)
            size = np.abs(spectrum)
            known = None if size.min() > _LEAST else size > _LEAST  # nothing has no phase
            spectrum *= magnitudes / np.maximum(size, _LEAST)
            frames = spectrum if known is None else np.where(known, spectrum, frames)
        return frames


def invert(magnitude: Floats, n_fft: int, hop: int, tail: Floats | None = None) -> Floats:
    """Turns all magnitude frames into audio: the streamed algorithm, whole.

    Shape:
        magnitude: (T, K); tail: (n_fft,) or None. Returns (n_fft - hop + T * hop,), of which the first n_fft - hop
        samples stand in the place of the tail's last ones.

    Raises:
        ValueError: as `PhaseStream`.
    """
    stream, overlap = PhaseStream(n_fft, hop, tail=tail), OverlapAdd(n_fft, hop, tail)
    frames = [*map(stream.push, magnitude), stream.finish()]
    return np.concatenate([*map(overlap.push, frames), overlap.finish()])


def levels(magnitude: Floats) -> Floats:
    """Magnitudes to their logarithms, of the same shape."""
    return np.log(magnitude + _TINY)


def centred(phase: Floats) -> Floats:
    """Phases `(..., K)` that refer to the start of each frame, to those that refer to its middle."""
    return phase + np.float32(np.pi) * (np.arange(phase.shape[-1], dtype=np.float32) % 2)


def phasors(phase: Floats) -> Complexes:
    """Phases `(..., K)` that refer to the middle of each frame, to unit phasors that refer to its start."""
    units = np.empty(phase.shape, np.complex64)
    np.cos(phase, out=units.real)
    np.sin(phase, out=units.imag)
    units[..., 1::2] *= -1  # half a frame later every other bin has turned by an odd multiple of pi
    return units


def integrated(level: Floats, phase: Floats, n_fft: int, hop: int) -> Floats:
    """Phases of frames from how their levels change, going on from the phase of the frame before them.

    Under a Gaussian window the logarithm of an STFT's magnitude and its phase have the same gradients, crosswise: along
    frequency the phase changes as the level does in time, and in time as the level does along frequency, besides the
    bin's own frequency. Each bin goes on from where that is surest: from itself one frame before, or from a
    neighbour, as `_sources` finds. The last frame has none after it, so that its change in time is that from before.

    Shape:
        level: (1 + T, K), the frame before and T frames; phase: (K,) of the frame before, referring to the middle of
        the frame. Returns (T, K).
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
    for t, way in enumerate(source):
        phases[t + 1] += phases.take(way)
    return phases[1:]


def _sources(before: Floats, now: Floats) -> NDArray[np.intp]:
    """The point one frame before from which heap integration comes to each bin now, by way of neighbours or directly.

    A heap takes the loudest point that is known and goes on to its unknown neighbours. So what is known last on the
    way to a bin decides when that is reached: a way is as loud as its quietest point, and the loudest way wins. From
    below, `best[k] = max(before[k], min(best[k - 1], now[k - 1]))`, which is the same kind of function again when it is
    applied twice: all bins are solved at once, over 1, 2, 4, ... bins.

    Shape: (T, K) levels of frames and of those after them, to (T, K) places in the first, flattened: `t * K + k`.
    """
    bins, places = before.shape[-1], np.arange(before.size)

    def from_below(before: Floats, now: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """How loud the best way to each bin is, `(T, K)`, and where it begins; the rows as one, one after the other."""
        level, edge = before.ravel(), np.empty(before.size, np.float32)
        edge[1:], edge[::bins] = now.ravel()[:-1], -np.inf  # and no way leads from one to the next
        best, way, reach = level.copy(), edge.copy(), 1
        while reach < min(_REACH, bins):
            np.maximum(best[reach:], np.minimum(best[:-reach], way[reach:]), out=best[reach:])
            way[reach:] = np.minimum(way[:-reach], way[reach:])
            reach *= 2
        begins = np.zeros(before.size, np.intp)  # 0 where a way comes from the bin below
        begins[1:] = places[1:] * (level[1:] >= np.minimum(best[:-1], edge[1:]))
        return best.reshape(before.shape), np.maximum.accumulate(begins).reshape(before.shape)

    below, source = from_below(before, now)
    above, mirrored = from_below(before[:, ::-1], now[:, ::-1])
    ends = 2 * places[::bins, None] + bins - 1  # the first place of a row and its last one, added
    return np.where(above[:, ::-1] > below, ends - mirrored[:, ::-1], source)
