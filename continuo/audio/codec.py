"""The codec of sound turns STFT frames into a few codes each, and codes into STFT magnitudes."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from continuo.audio import codebook, postfilter
from continuo.audio.codebook import Advance, ResidualCodebook
from continuo.audio.phase import PASSES
from continuo.audio.postfilter import AHEAD, PAST, Postfilter, PostfilterLoss, Runs, pad_edges
from continuo.audio.stereo import BANDS, StereoImage

RUN = 32  # consecutive frames that are sampled together
MIN_CENTROIDS = 64  # of a level, however small the corpus
MAX_WHOLE_FRAMES = 60_000  # frames kept with all bins, for principal components and post-filter: 300 MB
SPLIT_HZ, TOP_HZ = 12_000.0, 20_000.0  # between them only the energy of bands is kept, and above nothing
HIGH_BANDS = 12
IMAGE_WEIGHTS = 3.0, 2.0  # of level differences and of 1 - coherence in the squared error
POSTFILTER_STEP_COST = 9e5  # in units of one frame x one centroid of k-means, for the progress estimate

Tensors = dict[str, torch.Tensor]


def checked(tensors: Tensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor of a name; ValueError if it is not float32 of this shape."""
    tensor = tensors[name]
    if tensor.shape != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype} of {list(tensor.shape)}, not float32 of {list(shape)}")
    return tensor


@dataclass(frozen=True)
class SpectralSettings:
    """Hold the settings of a `SpectralCodec`, as the section `representation` of the metadata describes them."""

    sample_rate_hz: int
    n_fft: int
    hop: int
    floor: float
    components: int
    levels: int
    centroids: int
    frames_per_centroid: int
    fit_frames: int
    postfilter_steps: int
    channels: int = 1

    def centroids_for(self, frames: int) -> int:
        """Return the number of centroids of a codebook that is fitted to `frames` frames."""
        enough = frames // self.frames_per_centroid if self.frames_per_centroid else self.centroids
        return min(self.centroids, max(MIN_CENTROIDS, enough))


class HighBands:
    """Replace the bins above `SPLIT_HZ` by the energies of bands; `unfold` copies their fine structure from below."""

    def __init__(self, bins_hz: np.ndarray) -> None:
        bins, start, top = len(bins_hz), *np.searchsorted(bins_hz, [SPLIT_HZ, TOP_HZ], side="right")
        self.start = bins if bins - start < 2 * HIGH_BANDS else int(start)  # a few bins are kept as they are
        self.edges = np.unique(
            np.geomspace(self.start, max(top, self.start), HIGH_BANDS + 1).round().astype(int)
        ).tolist()
        self.bands = [slice(*ends) for ends in itertools.pairwise(self.edges)]
        half = self.start // 2
        self.source = half + torch.arange(self.edges[-1] - self.start) % (self.start - half)  # bins to copy from

    def fold(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Return the low bins and the root mean square of each band, `(T, F)`, of magnitudes `(T, K)`."""
        if not self.bands:
            return magnitude
        bands = [magnitude[:, band].square().mean(1, keepdim=True).sqrt() for band in self.bands]
        return torch.cat([magnitude[:, : self.start], *bands], dim=1)

    def unfold(self, folded: torch.Tensor, bins: int) -> torch.Tensor:
        """Return magnitudes `(T, bins)` of what `fold` returned."""
        if not self.bands:
            return folded
        magnitude = torch.zeros(len(folded), bins)
        magnitude[:, : self.start] = folded[:, : self.start]
        magnitude[:, self.start : self.edges[-1]] = folded[:, self.source] + 1e-9
        for number, band in enumerate(self.bands, self.start):
            part = magnitude[:, band]
            part *= folded[:, number, None] / part.square().mean(1, keepdim=True).sqrt()
        return magnitude


class SpectralCodec:
    """Turn frames into L codes, the coarsest first, by log magnitudes, principal components and residual k-means.

    Bins are weighted by the square root of the mel scale's density, 1 / (1 + f / 700 Hz), so that squared errors add up
    over mels and not over hertz: low partials, which carry the harmony, are kept better than hiss. Codes hold no phase.
    Decoding gives magnitudes, from which the post-filter removes quantization errors. Frames of two channels, given as
    `(T, 2, K)`, are coded as the root of their mean power and a `StereoImage`.
    """

    codebook: ResidualCodebook  # present once the codec is fitted or loaded
    past, ahead = PAST, AHEAD  # frames before and after a frame that its decoding depends on
    passes = PASSES  # of the decoder's `PhaseStream`
    prompt_frames = PAST  # at the end of a prompt from which decoding can go on

    def __init__(self, settings: SpectralSettings) -> None:
        self.settings, self.channels = settings, settings.channels
        self.bins_hz = np.arange(settings.n_fft // 2 + 1) * settings.sample_rate_hz / settings.n_fft
        self.full_scale = float(torch.hann_window(settings.n_fft).sum()) / 2  # the magnitude of a sine of amplitude 1
        self.high = HighBands(self.bins_hz)
        self.image = StereoImage(self.bins_hz) if settings.channels == 2 else None
        self.weight = self._weights()  # (F,)
        self.postfilter = Postfilter(settings.components, len(self.weight))  # corrects nothing before it is fitted

    def with_channels(self, channels: int) -> "SpectralCodec":
        """Return a codec with the same settings for 1 or 2 channels, this one if it has as many."""
        return self if channels == self.settings.channels else SpectralCodec(replace(self.settings, channels=channels))

    def like(self, tensors: Tensors) -> "SpectralCodec":
        """Return a codec for as many channels as the one that `to_dict` gave: of a mono corpus it has one."""
        one = self.with_channels(1)
        return one if len(tensors["mean"]) == len(one.weight) else self.with_channels(2)

    def _weights(self) -> torch.Tensor:
        """Return the weights of bins, bands (which stand for several bins) and stereo parameters."""
        density = 1 / (1 + torch.from_numpy(self.bins_hz).float() / 700)
        density = density / density[: self.high.start].mean()
        high = [(density[band].mean() * len(density[band]) ** 0.5).sqrt() for band in self.high.bands]
        stereo = [torch.full((BANDS,), weight) for weight in IMAGE_WEIGHTS if self.image]
        return torch.cat([density[: self.high.start].sqrt(), torch.tensor(high), *stereo])

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Return the number of values of each of the L codes."""
        levels, centroids, _ = self.codebook.centroids.shape
        return (centroids,) * levels

    def fit(
        self,
        sample: Callable[[int], Iterable[torch.Tensor]],
        frames: int,
        *,
        seed: int,
        advance: Advance,
        start: Tensors | None = None,
    ) -> None:
        """Fit codebook and post-filter to a corpus of `frames` frames; ValueError if these are too few.

        Args:
            sample: returns about as many complex frames as asked for, in runs `(T, K)` of at most `RUN` frames; the
                same ones for the same number.
            start: the tensors of a codec with the same settings to continue from, so that codes keep roughly their old
                meaning.
        """
        # Longer than 40 lines: it alone holds `vectors`, hundreds of megabytes, and frees them halfway.
        s, earlier = self.settings, None
        if start:
            self.load_dict(start)
            earlier = self.codebook
        advance("sampling frames")
        used = min(s.fit_frames, frames)
        few = min(used, MAX_WHOLE_FRAMES)
        vectors, phases, in_whole_run = self._gather(sample(few), max(few, RUN))
        if earlier:
            advance("components as they were")
        self.codebook = codebook.fit(
            vectors.numpy(),
            components=s.components,
            levels=s.levels,
            centroids=len(earlier.centroids[0]) if earlier else s.centroids_for(used),
            seed=seed,
            advance=advance,
            start=earlier,
            more_vectors=map(self.vectors, sample(used)) if used > few else None,
            max_vectors=max(used, RUN),
        )
        if s.postfilter_steps and in_whole_run.any():
            real, phases = (rows[in_whole_run].unflatten(0, (-1, RUN)) for rows in (vectors, phases))  # (R, T, K)
            del vectors  # hundreds of megabytes
            quantized = codebook.cross_fit_quantize(
                self.codebook, real.flatten(0, 1), seed=seed, advance=advance, start=earlier, fitted_to=used
            ).unflatten(0, real.shape[:2])
            runs = Runs(quantized, self.codebook.reconstruct(quantized), real, phases)
            self._fit_postfilter(runs, seed, advance, self.postfilter.state_dict() if earlier else None)

    def _fit_postfilter(self, runs: Runs, seed: int, advance: Advance, start: Tensors | None) -> None:
        """Fit the post-filter to runs of frames, from the weights of an earlier one or from nothing."""
        s = self.settings
        low_hz = self.bins_hz[: self.high.start]
        loss = PostfilterLoss(runs, self.weight, bins_hz=low_hz, floor=s.floor, n_fft=s.n_fft, hop=s.hop)
        self.postfilter = postfilter.fit(runs, loss, steps=s.postfilter_steps, seed=seed, start=start, advance=advance)

    def _gather(self, sample: Iterable[torch.Tensor], max_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return vectors `(T, F)`, phases of the low bins, and which frames lie in runs of full length `(T,)`."""
        bins, filled = self.high.start, 0
        vectors, phases = torch.empty(max_rows, len(self.weight)), torch.empty(max_rows, bins, dtype=torch.half)
        in_whole_run = torch.empty(max_rows, dtype=torch.bool)
        for run in sample:
            rows = slice(filled, filled + len(run))
            mono = run if run.dim() == 2 else run.sum(1)
            vectors[rows], in_whole_run[rows] = self.vectors(run), len(run) == RUN
            phases[rows] = mono[:, :bins].angle().half()
            filled += len(run)
        return vectors[:filled], phases[:filled], in_whole_run[:filled]

    def phase_costs(self, frames: int) -> list[float]:
        """Return the relative cost of each phase of `fit` on `frames` frames, in the order reported to `advance`."""
        s, used = self.settings, min(self.settings.fit_frames, frames)
        centroids, few = s.centroids_for(used), min(used, MAX_WHOLE_FRAMES)
        costs = [0.0, 0.0] + [float(used * centroids)] * s.levels  # reading may wait for a disk and is not estimated
        if s.postfilter_steps:
            halves = 2 * s.levels if used < codebook.PLENTY * centroids else 0
            step_costs = POSTFILTER_STEP_COST * postfilter.step_count(few // RUN, s.postfilter_steps)
            costs += [few / 2 * centroids] * halves + [step_costs / postfilter.REPORTS] * postfilter.REPORTS
        return costs

    def vectors(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what is coded of complex frames `(T, K)` or `(T, 2, K)`: vectors `(T, F)`, weighted.

        These are log magnitudes (over full scale, plus a floor) of low bins and of bands, and the stereo image.
        """
        return self._vectors(frames, self.settings.floor)

    def _vectors(self, frames: torch.Tensor, floor: float) -> torch.Tensor:
        magnitude = torch.from_numpy(np.abs(frames.numpy()))  # takes a tenth of the time of torch's abs
        if frames.dim() == 3:
            magnitude = magnitude.square().mean(1).sqrt()
        values = self.high.fold(magnitude).div_(self.full_scale).add_(floor).log_()
        if self.image:
            both = self.image.measure(frames) if frames.dim() == 3 else values.new_zeros(len(values), 2 * BANDS)
            values = torch.cat([values, both], dim=1)
        return values.mul_(self.weight)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the codes `(T, L)` int64 of complex frames `(T, K)`."""
        return self.codebook.encode(self.vectors(frames))

    def components(self, codes: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the components `(T, P)` of codes `(T, L)` that follow a frame with the components `before` `(P,)`."""
        return self.codebook.dequantize(codes)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return STFT magnitudes `(T, K)` of codes `(T, L)`."""
        return self.decode_components(pad_edges(self.components(codes), self.past, self.ahead))[0]

    @torch.no_grad()
    def decode_components(self, components: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return magnitudes and stereo parameters of principal components `(PAST + T + AHEAD, P)`, without the edges.

        Shape: `(T, K)` and `(T, 2 * BANDS)`; the latter `(T, 0)` for one channel.
        """
        inner = components[PAST : len(components) - AHEAD]
        values = (self.codebook.reconstruct(inner) + self.postfilter(components)) / self.weight
        logs, image = values.tensor_split([len(self.weight) - 2 * BANDS * (self.settings.channels - 1)], dim=1)
        folded = (logs.exp() - self.settings.floor).clamp(min=0) * self.full_scale
        return self.high.unfold(folded, len(self.bins_hz)), image

    def round_trip(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the magnitudes `(T, K)` that are left of complex frames `(T, K)` after encoding and decoding."""
        return self.decode(self.encode(frames))

    def to_dict(self) -> Tensors:
        """Return everything fitted, as tensors."""
        c = self.codebook
        weights = {f"postfilter.{name}": tensor for name, tensor in self.postfilter.state_dict().items()}
        return {"mean": c.mean, "components": c.components, "centroids": c.centroids} | weights

    def load_dict(self, tensors: Tensors) -> None:
        """Load what `to_dict` returned; ValueError, RuntimeError or KeyError if it does not suit the settings."""
        s, width = self.settings, len(self.weight)
        mean, components = checked(tensors, "mean", (width,)), checked(tensors, "components", (s.components, width))
        count = min([s.centroids, *tensors["centroids"].shape[1:2]])  # fewer if the corpus was small
        centroids = checked(tensors, "centroids", (s.levels, max(2, count), s.components))
        self.codebook = ResidualCodebook(mean, components, centroids)
        weights = {n.removeprefix("postfilter."): t for n, t in tensors.items() if n.startswith("postfilter.")}
        self.postfilter.load_state_dict(weights)
        self.postfilter.eval().requires_grad_(False)
