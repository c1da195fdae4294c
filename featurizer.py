"""Featurizers turn a piece into a stream of steps, and a stream back into music.

Contract (`Featurizer`): `fit` on pieces, `encode` a piece to a stream as `spec` describes it, `decoder` back, one step
at a time. A featurizer is rebuilt from its section of the metadata and its `state()` alone, without the corpus.
The public frame of the audio line is `[magnitude | phase]`, 2K values for K = n_fft // 2 + 1 bins.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from continuo import codebook
from continuo.metadata import CodebookSection, SpectrumSection, StftSection
from continuo.phase import PhaseStream
from continuo.piece import Piece
from continuo.stft import OverlapAdd, check_hop, frame_count, from_frames, hann, inverse, spectrum, to_frames
from continuo.stream import StreamSpec


class Decoder(ABC):
    """Turns steps into samples while they are made. What comes out does not depend on how it is asked for.

    Output begins `overlap_samples` before the end of the prompt, which it blends into; F steps then give
    `overlap_samples + F * hop` samples in all.
    """

    overlap_samples: int

    @abstractmethod
    def push(self, step: torch.Tensor) -> np.ndarray:
        """One step `(L,)` or `(F,)` to the samples that are final now, float32, possibly none."""

    @abstractmethod
    def finish(self) -> np.ndarray:
        """The samples that were still open."""


class Featurizer(ABC):
    """The contract of a representation.

    Attributes:
        spec: what a stream of this featurizer looks like; known once fitted.
    """

    spec: StreamSpec

    @abstractmethod
    def fit(self, pieces: Sequence[Piece], *, seed: int, advance: Callable[[str], None]) -> None:
        """Learn what encoding needs from training pieces; `advance` is told what is being done."""

    @abstractmethod
    def encode(self, piece: Piece, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Steps `start` to `stop` of a piece, `(T, L)` int64 or `(T, F)` float32; only the audio needed is read."""

    @abstractmethod
    def steps(self, piece: Piece) -> int:
        """How many steps `encode` gives for the whole piece."""

    @abstractmethod
    def encode_prompt(self, prompt: Piece) -> torch.Tensor:
        """The stream of a prompt, its last step ending where the prompt ends: nothing after the end is imagined.

        Raises:
            ValueError: the prompt is too short for one step.
        """

    @abstractmethod
    def decoder(self, prompt: Piece | None = None) -> Decoder:
        """A decoder that goes on where the prompt ends, or from silence."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Everything fitted, as tensors."""

    def fingerprint(self) -> str:
        """Changes whenever the same piece would be encoded otherwise."""
        digest = hashlib.blake2b(self.layout().encode(), digest_size=20)
        for name, tensor in sorted(self.state().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @abstractmethod
    def layout(self) -> str:
        """Everything that encoding depends on before fitting."""

    @abstractmethod
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `state()` gave."""


class StftFeaturizer(Featurizer):
    """What audio featurizers share: the frame grid. Subclasses say what a frame becomes, and what becomes a frame."""

    def __init__(self, section: StftSection, sample_rate_hz: int) -> None:
        check_hop(section.n_fft, section.hop)
        self.section, self.sample_rate_hz = section, sample_rate_hz
        self.n_fft, self.hop = section.n_fft, section.hop

    def layout(self) -> str:
        return f"{self.sample_rate_hz} Hz, {self.section.model_dump_json()}"

    @property
    def steps_per_second(self) -> float:
        return self.sample_rate_hz / self.hop

    @abstractmethod
    def from_complex(self, frames: torch.Tensor) -> torch.Tensor:
        """Complex frames `(T, K)` to a stream."""

    def steps(self, piece: Piece) -> int:
        return frame_count(len(piece.samples), self.hop)

    def encode(self, piece: Piece, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Frame `t` is centred on sample `t * hop`, so the first and last reach half a window outside the piece."""
        stop = self.steps(piece) if stop is None else stop
        parts = []
        for first in range(start, stop, codebook.ENCODE_ROWS):
            last = min(first + codebook.ENCODE_ROWS, stop) - 1
            audio = piece.read(first * self.hop - self.n_fft // 2, last * self.hop + self.n_fft // 2)
            parts.append(self.from_complex(spectrum(audio, self.n_fft, self.hop)))
        return torch.cat(parts)

    def encode_prompt(self, prompt: Piece) -> torch.Tensor:
        length = len(prompt.samples)
        if length < self.n_fft:
            raise ValueError(
                f"the prompt {prompt.source} is too short: {prompt.seconds:.3f} s, "
                f"at least {self.n_fft / self.sample_rate_hz:.3f} s (one frame) are needed"
            )
        return self.from_complex(spectrum(prompt.read((length - self.n_fft) % self.hop, length), self.n_fft, self.hop))

    def tail(self, prompt: Piece | None) -> np.ndarray | None:
        """The last `n_fft` samples of a prompt, at the models' loudness."""
        return None if prompt is None else prompt.read(len(prompt.samples) - self.n_fft, len(prompt.samples))

    def sample(self, pieces: Sequence[Piece], frames: int, seed: int) -> Iterable[torch.Tensor]:
        """Complex frames in short runs from random places, about `frames` in all; every frame where there are fewer."""
        counts = np.array([self.steps(piece) for piece in pieces])
        run = 32
        starts = [(p, start) for p, count in enumerate(counts) for start in range(0, int(count), run)]
        if counts.sum() > frames:
            chosen = np.random.default_rng(seed).choice(len(starts), max(1, frames // run), replace=False)
            starts = [starts[i] for i in np.sort(chosen)]
        for p, start in starts:
            stop = min(start + run, int(counts[p]))
            audio = pieces[p].read(start * self.hop - self.n_fft // 2, (stop - 1) * self.hop + self.n_fft // 2)
            yield spectrum(audio, self.n_fft, self.hop)


class SpectrumFeaturizer(StftFeaturizer):
    """Frames of `[magnitude | phase]` as they are: exact in both directions, for any hop that the window allows."""

    def __init__(self, section: SpectrumSection, sample_rate_hz: int) -> None:
        super().__init__(section, sample_rate_hz)
        self._set_moments(torch.zeros(self.n_fft + 2), torch.ones(self.n_fft + 2))

    def fit(self, pieces: Sequence[Piece], *, seed: int, advance: Callable[[str], None]) -> None:
        """Mean and deviation of every value, over at most 20,000 frames."""
        advance("mean and deviation")
        frames = torch.cat([to_frames(run) for run in self.sample(pieces, 20_000, seed)])
        self._set_moments(frames.mean(0), frames.std(0) + 1e-3)

    def _set_moments(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self.spec = StreamSpec(self.steps_per_second, features=self.n_fft + 2, mean=mean, deviation=deviation)

    def from_complex(self, frames: torch.Tensor) -> torch.Tensor:
        return to_frames(frames)

    def decode(self, frames: torch.Tensor) -> np.ndarray:
        """The inverse of `encode` for a whole piece: `(T, 2K)` to `((T - 1) * hop,)` samples, to float precision."""
        return inverse(from_frames(frames), self.n_fft, self.hop)

    def decoder(self, prompt: Piece | None = None) -> "SpectrumDecoder":
        return SpectrumDecoder(self, self.tail(prompt))

    def state(self) -> dict[str, torch.Tensor]:
        assert self.spec.mean is not None
        assert self.spec.deviation is not None
        return {"mean": self.spec.mean, "deviation": self.spec.deviation}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._set_moments(state["mean"], state["deviation"])


class SpectrumDecoder(Decoder):
    """Overlap-add of `[magnitude | phase]` frames with the phases that they hold."""

    def __init__(self, featurizer: SpectrumFeaturizer, tail: np.ndarray | None) -> None:
        self.overlap = OverlapAdd(featurizer.n_fft, featurizer.hop, tail)
        self.overlap_samples = featurizer.n_fft - featurizer.hop

    def push(self, step: torch.Tensor) -> np.ndarray:
        return self.overlap.push(from_frames(step).numpy())

    def finish(self) -> np.ndarray:
        return self.overlap.finish()


class CodebookFeaturizer(StftFeaturizer):
    """Log-magnitude, PCA and residual k-means: a frame becomes L codes, the coarsest first.

    Bins are weighted by the square root of the mel scale's density, 1 / (1 + f / 700 Hz), so that squared errors add up
    over mels and not over hertz: low partials, which carry the harmony, are kept better than hiss. Codes hold no phase:
    decoding gives magnitudes, and `continuo.phase` finds phases that continue the prompt's.
    """

    def __init__(self, section: CodebookSection, sample_rate_hz: int) -> None:
        super().__init__(section, sample_rate_hz)
        self.section: CodebookSection = section
        self.full_scale = float(hann(self.n_fft).sum()) / 2  # the magnitude of a sine of amplitude 1
        density = 1 / (1 + torch.arange(self.n_fft // 2 + 1) * sample_rate_hz / self.n_fft / 700)
        self.weight = (density / density.mean()).sqrt()

    def fit(self, pieces: Sequence[Piece], *, seed: int, advance: Callable[[str], None]) -> None:
        advance("sampling frames")
        vectors = torch.cat([self.vectors(run) for run in self.sample(pieces, self.section.fit_frames, seed)])
        s = self.section
        self._set_codebook(
            codebook.fit(
                vectors.numpy(),
                components=s.components,
                levels=s.levels,
                centroids=s.centroids,
                seed=seed,
                advance=advance,
            )
        )

    def _set_codebook(self, quantiser: codebook.ResidualCodebook) -> None:
        self.codebook = quantiser
        vocabulary = (quantiser.centroids.shape[1],) * quantiser.levels
        self.spec = StreamSpec(self.steps_per_second, vocabulary, vectors=quantiser.centroids)

    def vectors(self, frames: torch.Tensor) -> torch.Tensor:
        """Complex `(T, K)` to weighted logarithms of magnitude over full scale, plus a floor, `(T, K)`."""
        return (frames.abs() / self.full_scale + self.section.floor).log() * self.weight

    def from_complex(self, frames: torch.Tensor) -> torch.Tensor:
        return self.codebook.encode(self.vectors(frames))

    def magnitude(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(T, L)` to STFT magnitudes `(T, K)`."""
        log_magnitude = self.codebook.decode(codes) / self.weight
        return (log_magnitude.exp() - self.section.floor).clamp(min=0) * self.full_scale

    def decoder(self, prompt: Piece | None = None) -> "CodebookDecoder":
        return CodebookDecoder(self, self.tail(prompt))

    def state(self) -> dict[str, torch.Tensor]:
        c = self.codebook
        return {"mean": c.mean, "components": c.components, "centroids": c.centroids}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self._set_codebook(codebook.ResidualCodebook(state["mean"], state["components"], state["centroids"]))


class CodebookDecoder(Decoder):
    """Codes to magnitudes, magnitudes to `[magnitude | phase]` frames, frames to audio."""

    def __init__(self, featurizer: CodebookFeaturizer, tail: np.ndarray | None) -> None:
        self.featurizer = featurizer
        self.phase = PhaseStream(featurizer.n_fft, featurizer.hop, tail=tail)
        self.overlap = OverlapAdd(featurizer.n_fft, featurizer.hop, tail)
        self.overlap_samples = featurizer.n_fft - featurizer.hop

    def push(self, step: torch.Tensor) -> np.ndarray:
        return self._audio(self.phase.push(self.featurizer.magnitude(step[None])[0].numpy()))

    def finish(self) -> np.ndarray:
        return np.concatenate([self._audio(self.phase.finish()), self.overlap.finish()])

    def _audio(self, frames: np.ndarray) -> np.ndarray:
        """Complex frames `(n, K)` to the samples that are final now."""
        return np.concatenate([np.zeros(0, np.float32), *map(self.overlap.push, frames)])


FEATURIZERS: dict[str, Callable[..., Featurizer]] = {"spectrum": SpectrumFeaturizer, "codebook": CodebookFeaturizer}
