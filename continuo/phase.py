"""Phase reconstruction, a few frames at a time: STFT magnitudes become audio that continues what was already heard.

Conventions: `torch.stft` with a periodic Hann window and no normalisation, K = n_fft // 2 + 1 bins. Time 0 is the end
of the audio being continued, and generated frame j = 1, 2, ... covers the samples [j * hop - n_fft, j * hop):

    heard audio  ......|----- tail -----|
                       |--- frame 0 ----|            the last frame of the prompt: real magnitude, real phase
                          |--- frame 1 ----|         hop samples later; overlaps the prompt: the seam
                             |--- frame 2 ----|

Method: real-time iterative spectrogram inversion with look-ahead (RTISI-LA; Zhu, Beauregard and Wyse, "Real-Time Signal
Estimation From Modified Short-Time Fourier Transform Magnitude Spectra", IEEE TASLP 2007), several frames at once,
except across the seam. Each new frame starts from the phase advance of its own spectral peaks (Beauregard et al.,
"Single Pass Spectrogram Inversion", DSP 2015), which may glide, and each pass is extrapolated (Perraudin, Balazs and
Sondergaard, "A Fast Griffin-Lim Algorithm", WASPAA 2013). The offline result is by definition the streamed one, so
chunked and whole output are the same samples.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from continuo.stft import OverlapAdd, hann, overlapped_power, share_of_earlier

Floats = NDArray[np.float32]
Complexes = NDArray[np.complexfloating]
_TINY = np.float32(1e-20)
_GLIDE = 3.0  # bins within which a peak is taken for one that was there before, and moved
BLOCK, LOOK_AHEAD, PASSES, MOMENTUM = 4, 1, 10, 0.9


class PhaseStream:
    """Turns magnitude frames into complex frames while they arrive; `OverlapAdd` makes audio of them.

    Args:
        n_fft: window length in samples, even, at least 4.
        hop: samples per frame, 1 <= hop <= n_fft // 2.
        tail: the last n_fft samples (float32) of the audio being continued; None continues from silence.
        block: frames that become final together, >= 1. More cost less each, and wait longer.
        look_ahead: frames that stay open after a block, >= 0. Latency: (block - 1 + look_ahead) * hop samples more.
        imagined: frames after those, >= 0, taken to be like the newest one and never heard. They cost no latency.
        passes: over the open frames for each block, >= 0.
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
        span = n_fft + (block + look_ahead + imagined - 1) * hop
        power = np.resize(overlapped_power(n_fft, hop), n_fft)  # sum of squared windows, the same under every frame
        self._analysis = (self._window / power).astype(np.float32)
        self._seam = 0 if tail is None else n_fft // hop  # frames to come that overlap the prompt
        # The overlap-add of the committed frames, from the start of the oldest open frame on.
        self._sum: Floats = np.zeros(span, np.float32)
        self._new: list[Floats] = []  # magnitudes without phases yet
        self._magnitudes: Floats = np.zeros((0, n_fft // 2 + 1), np.float32)  # of the open frames, oldest first
        self._phasors: Complexes = np.zeros((0, n_fft // 2 + 1), np.complex64)
        self._last_phasor, self._frequency = self._continue_from(tail)

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
        if not np.all(np.isfinite(magnitude)) or magnitude.min() < 0:
            raise ValueError("magnitude must be finite and >= 0: is this a logarithm that was never undone?")
        self._new.append(magnitude)
        block = 1 if self._seam else self.block
        return self._commit(block if len(self._magnitudes) + len(self._new) == block + self.look_ahead else 0)

    def finish(self) -> Complexes:
        """Commits the open frames and returns them, (n, K)."""
        return self._commit(len(self._magnitudes) + len(self._new))

    def _continue_from(self, tail: Floats | None) -> tuple[Complexes, Floats]:
        """Puts the prompt's share of the seam into the sum; phasors and frequencies of its last frame, (K,) each."""
        bins = self.n_fft // 2 + 1
        if tail is None:
            return np.ones(bins, np.complex64), np.full(bins, -np.inf, np.float32)
        tail = np.asarray(tail, np.float32)
        if tail.shape != (self.n_fft,) or not np.all(np.isfinite(tail)):
            raise ValueError(f"tail must hold {self.n_fft} finite samples, got shape {tail.shape}")
        self._sum[: self.n_fft - self.hop] = tail[self.hop :] * share_of_earlier(self.n_fft, self.hop)
        spectrum = scipy.fft.rfft(tail * self._window)
        return _phasors(spectrum, np.ones_like(spectrum)), _Peaks(np.abs(spectrum[None])).frequency_of_bins[0]

    def _open(self) -> None:
        """Gives the new frames a first guess of their phases: then they are open."""
        magnitudes = np.stack(self._new)
        newest = self._phasors[-1] if len(self._phasors) else self._last_phasor
        guesses, self._frequency = _advance(magnitudes, newest, self._frequency, self.n_fft, self.hop)
        self._phasors = np.concatenate([self._phasors, guesses])
        self._magnitudes = np.concatenate([self._magnitudes, magnitudes])
        self._new = []

    def _add(self, frames: Complexes, signal: Floats) -> None:
        """Adds the windowed time signals of complex frames `(n, K)` to `signal`, from its start on."""
        parts = scipy.fft.irfft(frames, self.n_fft)
        parts *= self._window
        for i, part in enumerate(parts):
            signal[i * self.hop : i * self.hop + self.n_fft] += part

    def _iterate(self) -> None:
        """Griffin-Lim passes over the open frames; the committed ones stay as they are.

        The signal is divided by the full sum of windows although the frames to come are missing. That tapers the newest
        frames, so that they weigh less than those that more neighbours confirm.
        """
        span, before = self.n_fft + (len(self._magnitudes) - 1) * self.hop, None
        signal = np.empty(span, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.n_fft)[:: self.hop]  # as it is in each pass
        frames = self._magnitudes * self._phasors
        for left in reversed(range(self.passes)):
            signal[:] = self._sum[:span]
            self._add(frames, signal)
            spectrum = scipy.fft.rfft(windows * self._analysis)
            ahead = spectrum if before is None else spectrum + self.momentum * (spectrum - before)
            before = spectrum
            if left:
                size = np.abs(ahead)
                np.maximum(size, _TINY, out=size)
                frames = ahead * (self._magnitudes / size)  # where there is nothing at all, nothing is turned
            else:
                self._phasors = _phasors(ahead, self._phasors)

    def _commit(self, count: int) -> Complexes:
        """Closes the `count` oldest open frames and returns them, (count, K)."""
        if count == 0:
            return np.zeros((0, self.n_fft // 2 + 1), np.complex64)
        self._seam = max(0, self._seam - count)
        given = len(self._magnitudes) + len(self._new)
        if self.imagined:
            self._new += self.imagined * [self._new[-1] if self._new else self._magnitudes[-1]]
        if self._new:
            self._open()
        self._iterate()
        frames = self._magnitudes[:count] * self._phasors[:count]
        self._last_phasor = self._phasors[count - 1]
        self._magnitudes, self._phasors = self._magnitudes[count:given], self._phasors[count:given]
        self._add(frames, self._sum)
        self._sum = np.concatenate([self._sum[count * self.hop :], np.zeros(count * self.hop, np.float32)])
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


def _phasors(spectrum: Complexes, fallback: Complexes) -> Complexes:
    """Unit phasors of a spectrum; a bin that holds nothing keeps the fallback. Same shape throughout."""
    power = np.square(spectrum.real) + np.square(spectrum.imag)  # not `abs`, which guards against overflow, slowly
    units: Complexes = np.where(power > _TINY, spectrum / np.sqrt(np.maximum(power, _TINY)), fallback)
    return units.astype(np.complex64)


class _Peaks:
    """The spectral peaks of frames, and which of them each bin belongs to.

    A parabola through the logarithms of a peak and its neighbours gives its frequency between the bins.

    Attributes:
        row, bin, frequency: `(P,)` of all peaks, frame after frame; the frequency in bins.
        of_bins: `(n, K)` the peak of each bin, counted through all frames.
    """

    def __init__(self, magnitude: Floats) -> None:
        """`magnitude`: `(n, K)` >= 0."""
        level = np.log(magnitude + _TINY)
        last = level.shape[1] - 1
        rises = np.diff(level, prepend=-np.inf, append=-np.inf) > 0  # (n, K + 1): of bin k over bin k - 1
        self.row, self.bin = np.nonzero(rises[:, :-1] & ~rises[:, 1:])
        valleys = ~rises[:, :-1] & rises[:, 1:]  # between two peaks of a frame lies exactly one
        self.of_bins = np.cumsum(valleys).reshape(level.shape) + np.arange(len(level))[:, None]
        below, above = np.maximum(self.bin - 1, 0), np.minimum(self.bin + 1, last)
        left, centre, right = (level[self.row, place] for place in (below, self.bin, above))
        bend = np.minimum(left - 2 * centre + right, -1e-6)
        self.frequency = (self.bin + np.clip(0.5 * (left - right) / bend, -0.5, 0.5)).astype(np.float32)

    @property
    def frequency_of_bins(self) -> Floats:
        """`(n, K)`: of the peak that each bin belongs to."""
        return self.frequency[self.of_bins]


def _advance(magnitude: Floats, previous: Complexes, before: Floats, n_fft: int, hop: int) -> tuple[Complexes, Floats]:
    """First guess for frames: every spectral peak turns on by its own frequency, its neighbours are locked to it.

    Where a peak is near the one that was there before, it went from that frequency to this one, and turned by their
    mean. A sinusoid seen through a symmetric window has alternating signs from bin to bin (its phase refers to the
    middle of the frame).

    Shape:
        magnitude: (n, K) >= 0; previous: (K,) unit phasors and before: (K,) frequencies of the frame before. Returns
        unit phasors (n, K), and the frequencies (K,) of the last frame.
    """
    peaks = _Peaks(magnitude)
    frequencies = np.concatenate([before[None], peaks.frequency_of_bins])
    was = frequencies[peaks.row, peaks.bin]
    mean = np.where(np.abs(was - peaks.frequency) < _GLIDE, (was + peaks.frequency) / 2, peaks.frequency)
    signs = (1 - 2 * (np.arange(magnitude.shape[1]) & 1)).astype(np.float32)
    turns = signs[peaks.bin] * np.exp(2j * np.pi * hop / n_fft * mean).astype(np.complex64)
    guesses = np.empty(magnitude.shape, np.complex64)
    for guess, peak in zip(guesses, peaks.of_bins, strict=True):
        guess[:] = signs * (previous[peaks.bin] * turns)[peak]
        previous = guess
    return guesses, frequencies[-1]
