"""The loss of the network that restores spectra: the squared error, and how far statistics of the audio are apart.

Frames that are a little wrong do not agree with each other, so that the audio which they overlap to flickers between
them, although the frames themselves do not. So the audio of both sides is analyzed again, half a hop after the frames.
The phases of ours are those that the decoder finds. (Multi-resolution losses have the same aim: Yamamoto, Song and Kim,
Parallel WaveGAN, 2020.)
"""

import numpy as np
import torch
import torch.nn.functional as F

from continuo.audio.phase import PASSES, PhaseStream
from continuo.audio.stft import mel_filters, overlapped_power

STATISTICS_WEIGHTS = 0.5, 1.0, 1.0, 1.0, 0.5, 0.5  # relative to the squared error, in the order of `statistics`
BAND_FLOOR = 4e-5  # of full scale, added to the magnitudes of bands before their logarithm
MEL_BANDS, TOP_HZ = 56, 12_000.0  # of the statistics; the bands above are compared as they are
STATISTICS_FLOOR = 2e-4  # of full scale, added to magnitudes whose movement is compared
AUDIO_WEIGHT = 8.0  # of the statistics of the audio, relative to those of the frames


class RestorationLoss:
    """Measure how far restored runs of T frames are from the real ones.

    Args:
        weight: `(F,)`, by which vectors are multiplied: log magnitudes of low bins, of bands, then stereo parameters.
        bins_hz: frequencies of the low bins; `bands` is the number of bands after them.
        floor: of full scale, added to magnitudes before their logarithm is taken.
        run: T, more than twice n_fft / hop.
    """

    def __init__(
        self, weight: torch.Tensor, bins_hz: np.ndarray, bands: int, *, floor: float, n_fft: int, hop: int, run: int
    ) -> None:
        self.weight, self.bins, self.floor, self.n_fft, self.hop = weight, len(bins_hz), floor, n_fft, hop
        mels = torch.from_numpy(mel_filters(bins_hz, MEL_BANDS, high_hz=TOP_HZ).T.astype(np.float32))
        self.filters = torch.block_diag(mels, torch.eye(bands))
        self.window = torch.hann_window(n_fft)
        power = np.resize(overlapped_power(n_fft, hop), n_fft + (run - 1) * hop)
        self.gain = torch.from_numpy((1 / power).astype(np.float32))
        edge = -(-n_fft // hop)
        self.inner = slice(edge, run - 1 - edge)  # frames half a hop later that as many overlap as in endless audio

    def __call__(
        self, made: torch.Tensor, real: torch.Tensor, phases: torch.Tensor | None = None, passes: int = PASSES
    ) -> torch.Tensor:
        """Return the loss of vectors `(B, T, F)`; with the real phases `(B, T, K)` of low bins that of the audio.

        The squared error is that of the vectors either way. `passes` are those of the decoder's `PhaseStream`.
        """
        ours, theirs = (self._magnitudes(values) for values in (made, real))
        scale = 1.0
        if phases is not None:
            found = self.found_phases(ours[..., : self.bins].detach(), passes)
            ours, theirs, scale = self._between(ours, found), self._between(theirs, phases), AUDIO_WEIGHT
        measured = (statistics(magnitudes, self.filters, STATISTICS_FLOOR) for magnitudes in (ours, theirs))
        distances = (weight * (a - b).abs().mean() for weight, a, b in zip(STATISTICS_WEIGHTS, *measured, strict=True))
        return F.mse_loss(made, real) + scale * sum(distances, start=torch.zeros(()))

    def found_phases(self, magnitudes: torch.Tensor, passes: int) -> torch.Tensor:
        """Return the phases `(B, T, K)` that the decoder finds for magnitudes of the low bins, from silence."""
        filled = F.pad(magnitudes, (0, self.n_fft // 2 + 1 - self.bins)).numpy()
        streams = [PhaseStream(self.n_fft, self.hop, passes=passes) for _ in filled]
        runs = [
            np.concatenate([*map(stream.push, run), stream.finish()])
            for stream, run in zip(streams, filled, strict=True)
        ]
        return torch.from_numpy(np.angle(np.stack(runs)[..., : self.bins]).astype(np.float32))

    def _between(self, magnitudes: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        """Return the magnitudes `(B, T', F)` of the audio half a hop after the inner frames; bands stay as they are."""
        parts = torch.fft.irfft(torch.polar(magnitudes[..., : self.bins], phases), self.n_fft) * self.window
        width = (1, len(self.gain))
        audio = F.fold(parts.transpose(1, 2), width, (1, self.n_fft), stride=(1, self.hop)).flatten(1) * self.gain
        frames = audio[:, self.hop // 2 :].unfold(1, self.n_fft, self.hop)[:, self.inner] * self.window
        analyzed = torch.fft.rfft(frames).abs()[..., : self.bins]
        return torch.cat([analyzed, magnitudes[:, self.inner, self.bins :]], dim=-1)

    def _magnitudes(self, vectors: torch.Tensor) -> torch.Tensor:
        logs = (vectors / self.weight)[..., : len(self.filters)]
        return (logs.clamp(max=4).exp() - self.floor).clamp(min=0)


def statistics(magnitude: torch.Tensor, filters: torch.Tensor, floor: float) -> tuple[torch.Tensor, ...]:
    """Return what runs `(R, T, F)` are compared by, with `filters` `(F, M)` for M bands.

    These are the log magnitude of each band, sorted over time `(R, T, M)`; its movement between frames, sorted
    `(R, T - 1, M)`; the movement of the whole spectrum and its rises alone, sorted `(R, T - 1)`; and the mean and
    deviation of each band's movement `(R, M)`.
    """
    bands = (magnitude.clamp(max=20) @ filters + BAND_FLOOR).log()
    moved, change = bands.diff(dim=1).abs(), (magnitude + floor).log().diff(dim=1)
    each = bands, moved, change.abs().mean(2), change.clamp(min=0).mean(2)
    return *(values.sort(1).values for values in each), moved.mean(1), moved.std(1)
