"""Phase reconstruction, frame by frame: STFT magnitudes become audio that continues what was already heard.

Conventions: `torch.stft` with a periodic Hann window and no normalisation, K = n_fft // 2 + 1 bins. Time 0 is the end
of the audio being continued, and generated frame j = 1, 2, ... covers the samples [j * hop - n_fft, j * hop):

    heard audio  ......|----- tail -----|
                       |--- frame 0 ----|            the last frame of the prompt: real magnitude, real phase
                          |--- frame 1 ----|         hop samples later; overlaps the prompt: the seam
                             |--- frame 2 ----|

Method: real-time iterative spectrogram inversion with look-ahead (RTISI-LA; Zhu, Beauregard and Wyse, "Real-Time Signal
Estimation From Modified Short-Time Fourier Transform Magnitude Spectra", IEEE TASLP 2007). Each new frame starts from
the phase advance of its own spectral peaks (Beauregard et al., "Single Pass Spectrogram Inversion", DSP 2015) and
each pass is extrapolated (Perraudin, Balazs and Sondergaard, "A Fast Griffin-Lim Algorithm", WASPAA 2013).
The offline result is by definition the streamed one, so chunked and whole output are the same samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from continuo.stft import OverlapAdd, hann, overlapped_power, share_of_earlier

Floats = NDArray[np.float32]
Complexes = NDArray[np.complexfloating]
_TINY = np.float32(1e-20)


class PhaseStream:
    """Turns magnitude frames into complex frames while they arrive; `OverlapAdd` makes audio of them.

    Args:
        n_fft: window length in samples, even, at least 4.
        hop: samples per frame, 1 <= hop <= n_fft // 2.
        tail: the last n_fft samples (float32) of the audio being continued; None continues from silence.
        look_ahead: frames that stay open after a newer one has arrived, >= 0. Latency: look_ahead * hop samples more.
        iterations: passes over the open frames for each push, >= 0. Time per push is proportional to
            iterations * (look_ahead + 1).
        momentum: 0 ... 1, how far a pass is extrapolated along its last change; 0 is plain Griffin-Lim.

    Raises:
        ValueError: impossible n_fft, hop, look_ahead, iterations or momentum; a tail without n_fft finite samples.
    """

    def __init__(
        self,
        n_fft: int,
        hop: int,
        *,
        tail: Floats | None = None,
        look_ahead: int = 1,
        iterations: int = 16,
        momentum: float = 0.9,
    ) -> None:
        if n_fft < 4 or n_fft % 2:
            raise ValueError(f"n_fft must be even and at least 4, got {n_fft}")
        if not 1 <= hop <= n_fft // 2:
            raise ValueError(f"hop must lie in 1 ... n_fft // 2 = {n_fft // 2}, got {hop}: frames must overlap by half")
        if look_ahead < 0 or iterations < 0:
            raise ValueError(f"look_ahead and iterations must be >= 0, got {look_ahead} and {iterations}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in 0 ... 1, got {momentum}: beyond 1 the passes diverge")
        self.n_fft, self.hop, self.look_ahead = n_fft, hop, look_ahead
        self.iterations, self.momentum = iterations, np.float32(momentum)
        self._window = hann(n_fft).numpy()
        span = n_fft + look_ahead * hop
        self._gain = (1 / np.resize(overlapped_power(n_fft, hop), span)).astype(
            np.float32
        )  # 1 / sum of squared windows
        # The overlap-add of the committed frames, from the start of the oldest open frame on.
        self._sum: Floats = np.zeros(span, np.float32)
        self._magnitudes: list[Floats] = []  # the open frames, oldest first
        self._phasors: list[Complexes] = []
        self._last_phasor = self._continue_from(tail)

    def push(self, magnitude: Floats) -> Complexes:
        """Adds one frame and returns the complex frames that are final now.

        Args:
            magnitude: raw STFT magnitude, finite and >= 0.

        Shape:
            magnitude: (K,). Returns (n, K), n = 0 while the look-ahead fills, then 1 per push.

        Raises:
            ValueError: wrong shape, or values that are negative or not finite.
        """
        magnitude = np.asarray(magnitude, np.float32)
        bins = self.n_fft // 2 + 1
        if magnitude.shape != (bins,):
            raise ValueError(f"magnitude must have shape ({bins},) for n_fft {self.n_fft}, got {magnitude.shape}")
        if not np.all(np.isfinite(magnitude)) or magnitude.min() < 0:
            raise ValueError("magnitude must be finite and >= 0: is this a logarithm that was never undone?")
        newest = self._phasors[-1] if self._phasors else self._last_phasor
        self._phasors.append(_advance(magnitude, newest, self.n_fft, self.hop))
        self._magnitudes.append(magnitude)
        if len(self._magnitudes) <= self.look_ahead:
            return np.zeros((0, bins), np.complex64)
        self._iterate()
        return self._commit()[None]

    def finish(self) -> Complexes:
        """Commits the open frames and returns them, (n, K)."""
        rest = []
        while self._magnitudes:
            self._iterate()
            rest.append(self._commit())
        return np.array(rest, np.complex64).reshape(len(rest), self.n_fft // 2 + 1)

    def _continue_from(self, tail: Floats | None) -> Complexes:
        """Puts the prompt's share of the seam into the sum and returns the phasors of the prompt's last frame, (K,)."""
        if tail is None:
            return np.ones(self.n_fft // 2 + 1, np.complex64)
        tail = np.asarray(tail, np.float32)
        if tail.shape != (self.n_fft,) or not np.all(np.isfinite(tail)):
            raise ValueError(f"tail must hold {self.n_fft} finite samples, got shape {tail.shape}")
        self._sum[: self.n_fft - self.hop] = tail[self.hop :] * share_of_earlier(self.n_fft, self.hop)
        spectrum = np.fft.rfft(tail * self._window)
        return _phasors(spectrum, np.ones_like(spectrum))

    def _synthesise(self, frames: Complexes) -> Floats:
        """Windowed time signals of complex frames: (n, K) -> (n, n_fft)."""
        return np.fft.irfft(frames, self.n_fft, axis=-1).astype(np.float32) * self._window

    def _iterate(self) -> None:
        """Griffin-Lim passes over the open frames; the committed ones stay as they are.

        The signal is divided by the full sum of windows although the frames to come are missing. That tapers the newest
        frames, so that they weigh less than those that more neighbours confirm.
        """
        magnitudes, phasors = np.array(self._magnitudes), np.array(self._phasors)
        count, before = len(magnitudes), None
        for _ in range(self.iterations):
            signal = self._sum.copy()
            for i, part in enumerate(self._synthesise(magnitudes * phasors)):
                signal[i * self.hop : i * self.hop + self.n_fft] += part
            signal *= self._gain
            frames = np.stack([signal[i * self.hop : i * self.hop + self.n_fft] for i in range(count)])
            spectrum = np.fft.rfft(frames * self._window, axis=-1)
            ahead = spectrum if before is None else spectrum + self.momentum * (spectrum - before)
            before, phasors = spectrum, _phasors(ahead, phasors)
        self._phasors = list(phasors)

    def _commit(self) -> Complexes:
        """Closes the oldest open frame and returns it, (K,)."""
        self._last_phasor = self._phasors.pop(0)
        frame = self._magnitudes.pop(0) * self._last_phasor
        self._sum[: self.n_fft] += self._synthesise(frame)
        self._sum[: -self.hop] = self._sum[self.hop :]
        self._sum[-self.hop :] = 0
        return frame


def invert(magnitude: Floats, n_fft: int, hop: int, tail: Floats | None = None) -> Floats:
    """Turns all magnitude frames into audio: the streamed algorithm, whole.

    Shape:
        magnitude: (T, K); tail: (n_fft,) or None. Returns (n_fft - hop + T * hop,), of which the first n_fft - hop
        samples stand in the place of the tail's last ones.

    Raises:
        ValueError: as `PhaseStream`.
    """
    stream, overlap = PhaseStream(n_fft, hop, tail=tail), OverlapAdd(n_fft, hop, tail)
    frames = [frame for row in magnitude for frame in stream.push(row)]
    return np.concatenate([*map(overlap.push, [*frames, *stream.finish()]), overlap.finish()])


def _phasors(spectrum: Complexes, fallback: Complexes) -> Complexes:
    """Unit phasors of a spectrum; a bin that holds nothing keeps the fallback. Same shape throughout."""
    size = np.abs(spectrum)
    units: Complexes = np.where(size > _TINY, spectrum / np.maximum(size, _TINY), fallback).astype(np.complex64)
    return units


def _advance(magnitude: Floats, previous: Complexes, n_fft: int, hop: int) -> Complexes:
    """First guess for a frame: every spectral peak turns on by its own frequency, its neighbours are locked to it.

    A parabola through the logarithms of a peak and its neighbours gives its frequency between the bins. A sinusoid seen
    through a symmetric window has alternating signs from bin to bin (its phase refers to the middle of the frame).

    Shape:
        magnitude: (K,) >= 0; previous: (K,) unit phasors of the frame before. Returns (K,) unit phasors.
    """
    level = np.log(magnitude + _TINY)
    rises = np.diff(level, prepend=-np.inf, append=-np.inf) > 0  # (K + 1,): rises[k] compares bin k with bin k - 1
    peaks = np.flatnonzero(rises[:-1] & ~rises[1:])
    valleys = ~rises[:-1] & rises[1:]  # between two peaks lies exactly one
    left, centre, right = level[np.maximum(peaks - 1, 0)], level[peaks], level[np.minimum(peaks + 1, len(level) - 1)]
    bend = np.minimum(left - 2 * centre + right, -1e-6)
    offset = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    turned = previous[peaks] * np.exp(2j * np.pi * hop / n_fft * (peaks + offset))
    region = np.cumsum(valleys)
    sign = 1 - 2 * ((np.arange(len(level)) - peaks[region]) & 1)
    guess: Complexes = (turned[region] * sign).astype(np.complex64)
    return guess
