"""Featurizers turn a piece into a stream of steps, and a stream back into music.

Contract (`Featurizer`): `fit` on pieces, `encode` a piece to a stream as `spec` describes it, and back: sound by
`decoder`, one step at a time, notes by `decode`. A featurizer is rebuilt from its section of the metadata and its
`state()` alone, without the corpus.
The public frame of the audio line is `[magnitude | phase]`, 2K values for K = n_fft // 2 + 1 bins.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from continuo.audio import codebook, postfilter
from continuo.audio.phase import BLOCK, PhaseStream
from continuo.audio.piece import Piece
from continuo.audio.postfilter import AHEAD, PAST, Postfilter, pad_edges
from continuo.audio.stft import (
    OverlapAdd,
    check_hop,
    frame_count,
    from_frames,
    hann,
    inverse,
    spectrum,
    to_frames,
)
from continuo.model.metadata import (
    ChordsSection,
    CodebookSection,
    GridSection,
    RemiSection,
    RollSection,
    SpectrumSection,
    StftSection,
)
from continuo.model.stream import StreamSpec
from continuo.symbolic.chords import ChordCodec
from continuo.symbolic.codec import Codec
from continuo.symbolic.remi import RemiCodec
from continuo.symbolic.roll import RollCodec
from continuo.symbolic.song import Song
from continuo.system.workers import check_cancelled

State = dict[str, torch.Tensor]
P = TypeVar("P", Piece, Song)
MAX_PROMPT_S = 600.0  # of a prompt of sound that a model hears, its end; the time before matters no more
RUN = 32  # frames that are sampled together
TOGETHER = 4 * BLOCK  # frames that are decoded together: reading the post-filter's weights costs as much as using them
MIN_CENTROIDS = 64  # however small the corpus
POSTFILTER_STEP = 9e5  # what one costs, beside a frame and a centroid of k-means
WHOLE_FRAMES = 60_000  # of a sample that is kept whole, for principal components and post-filter: 300 MB
FIT_VERSION = 6  # part of the key of what was fitted: raise it whenever the same pieces would be fitted otherwise


def _shaped(state: State, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of a name; ValueError where it is not of this shape, in float32."""
    tensor = state[name]
    if tensor.shape != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype} of {list(tensor.shape)}, not float32 of {list(shape)}")
    return tensor


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


class Featurizer(ABC, Generic[P]):
    """The contract of a representation of pieces of type P: `Piece`, which is sound, or `Song`, which is notes.

    Attributes:
        modality: "sound" or "notes".
        spec: what a stream of this featurizer looks like; known once fitted.
    """

    modality: str
    spec: StreamSpec

    @abstractmethod
    def fit(
        self, pieces: Sequence[P], *, seed: int, advance: Callable[[str], None], start: State | None = None
    ) -> None:
        """Learn what encoding needs from training pieces; `advance` is told what is being done.

        `start` is the state of a featurizer of the same section to go on from, so that a stream of this one reads much
        like a stream of that one.
        """

    def shares(self, pieces: Sequence[P]) -> list[float]:
        """What the parts of `fit` cost beside each other, in the order in which `advance` is told of them, about."""
        return [1.0]

    @abstractmethod
    def encode(self, piece: P, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Steps `start` to `stop` of a piece, `(T, L)` int64 or `(T, F)` float32; only the audio needed is read."""

    def steps(self, piece: P) -> int:
        """How many steps `encode` gives for the whole piece."""
        return len(self.encode(piece))

    @abstractmethod
    def encode_prompt(self, prompt: P) -> torch.Tensor:
        """The stream of a prompt, its last step ending where the prompt ends: nothing after the end is imagined.

        Raises:
            ValueError: the prompt is too short for one step.
        """

    def out_of_range(self, prompt: P) -> int:
        """How many notes of a prompt are beyond the corpus's range, and are moved when it is encoded."""
        return 0

    @abstractmethod
    def state(self) -> State:
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
    def load_state(self, state: State) -> None:
        """Take up what `state()` gave."""


class StftFeaturizer(Featurizer[Piece]):
    """What audio featurizers share: the frame grid. Subclasses say what a frame becomes, and what becomes a frame."""

    modality = "sound"

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
    def decoder(self, prompt: Piece | None = None) -> Decoder:
        """A decoder that goes on where the prompt ends, or from silence."""

    @abstractmethod
    def from_complex(self, frames: torch.Tensor) -> torch.Tensor:
        """Complex frames `(T, K)` to a stream."""

    def steps(self, piece: Piece) -> int:
        return frame_count(len(piece.samples), self.hop)

    def encode(self, piece: Piece, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Frame `t` is centred on sample `t * hop`, so the first and last reach half a window outside the piece."""
        return self._encoded(piece, -(self.n_fft // 2), start, self.steps(piece) if stop is None else stop)

    def _encoded(self, piece: Piece, origin: int, start: int, stop: int) -> torch.Tensor:
        """Frames `start` to `stop`, of which frame `t` begins at sample `origin + t * hop`."""
        parts = []
        for first in range(start, stop, codebook.ENCODE_ROWS):
            check_cancelled()
            last = min(first + codebook.ENCODE_ROWS, stop) - 1
            audio = piece.read(origin + first * self.hop, origin + last * self.hop + self.n_fft)
            parts.append(self.from_complex(spectrum(audio, self.n_fft, self.hop)))
        return torch.cat(parts)

    def encode_prompt(self, prompt: Piece) -> torch.Tensor:
        length = len(prompt.samples)
        if length < self.n_fft:
            raise ValueError(
                f"the prompt {prompt.source} is too short: {prompt.seconds:.3f} s, "
                f"at least {self.n_fft / self.sample_rate_hz:.3f} s (one frame) are needed"
            )
        frames = min((length - self.n_fft) // self.hop, int(MAX_PROMPT_S * self.steps_per_second)) + 1
        return self._encoded(prompt, length - self.n_fft - (frames - 1) * self.hop, 0, frames)

    def tail(self, prompt: Piece | None) -> np.ndarray | None:
        """The last `n_fft` samples of a prompt, at the models' loudness."""
        return None if prompt is None else prompt.read(len(prompt.samples) - self.n_fft, len(prompt.samples))

    def sample(self, pieces: Sequence[Piece], frames: int, seed: int) -> Iterable[torch.Tensor]:
        """Complex frames in short runs from random places, about `frames` in all; every frame where there are fewer."""
        counts = np.array([self.steps(piece) for piece in pieces], np.int64)
        ends = np.cumsum(-(-counts // RUN))  # of each piece's runs, counted through all pieces
        runs = np.arange(ends[-1])
        if counts.sum() > frames:
            runs = np.sort(np.random.default_rng(seed).choice(len(runs), max(1, frames // RUN), replace=False))
        for run in runs:
            p = int(np.searchsorted(ends, run, side="right"))
            start = RUN * int(run - (ends[p - 1] if p else 0))
            stop = min(start + RUN, int(counts[p]))
            audio = pieces[p].read(start * self.hop - self.n_fft // 2, (stop - 1) * self.hop + self.n_fft // 2)
            yield spectrum(audio, self.n_fft, self.hop)


class SpectrumFeaturizer(StftFeaturizer):
    """Frames of `[magnitude | phase]` as they are: exact in both directions, for any hop that the window allows."""

    def __init__(self, section: SpectrumSection, sample_rate_hz: int) -> None:
        super().__init__(section, sample_rate_hz)
        self._set_moments(torch.zeros(self.n_fft + 2), torch.ones(self.n_fft + 2))

    def fit(
        self, pieces: Sequence[Piece], *, seed: int, advance: Callable[[str], None], start: State | None = None
    ) -> None:
        """Mean and deviation of every value, over at most 20,000 frames, or those to start from."""
        if start:
            self.load_state(start)
            return
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

    def state(self) -> State:
        assert self.spec.mean is not None
        assert self.spec.deviation is not None
        return {"mean": self.spec.mean, "deviation": self.spec.deviation}

    def load_state(self, state: State) -> None:
        shape = (self.n_fft + 2,)
        self._set_moments(_shaped(state, "mean", shape), _shaped(state, "deviation", shape))


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
    decoding gives magnitudes, which `postfilter` cleans of what quantising did, and `continuo.audio.phase` finds phases
    that continue the prompt's.
    """

    def __init__(self, section: CodebookSection, sample_rate_hz: int) -> None:
        super().__init__(section, sample_rate_hz)
        self.section: CodebookSection = section
        self.full_scale = float(hann(self.n_fft).sum()) / 2  # the magnitude of a sine of amplitude 1
        self.bins_hz = np.arange(self.n_fft // 2 + 1) * sample_rate_hz / self.n_fft
        density = 1 / (1 + torch.from_numpy(self.bins_hz).float() / 700)
        self.weight = (density / density.mean()).sqrt()
        self.postfilter = Postfilter(section.components, len(self.bins_hz))

    def fit(
        self, pieces: Sequence[Piece], *, seed: int, advance: Callable[[str], None], start: State | None = None
    ) -> None:
        s, earlier = self.section, None
        if start:
            self.load_state(start)
            earlier = self.codebook
        advance("sampling frames")
        frames = self.frames_to_fit(pieces)
        vectors, phases, whole = self._sampled(pieces, few := min(frames, WHOLE_FRAMES), seed)
        if earlier:
            advance("components as they were")
        fitted = codebook.fit(
            vectors.numpy(),
            components=s.components,
            levels=s.levels,
            centroids=len(earlier.centroids[0]) if earlier else self._centroids(frames),
            seed=seed,
            advance=advance,
            start=earlier,
            every=(self.vectors(run) for run in self.sample(pieces, frames, seed)) if frames > few else None,
            most=max(frames, RUN),
        )
        self._set_codebook(fitted)
        if s.postfilter_steps and whole.any():
            real, phases = (rows[whole].unflatten(0, (-1, RUN)) for rows in (vectors, phases))  # (R, T, K)
            del vectors
            rows = codebook.cross_fit_quantize(
                self.codebook, real.flatten(0, 1), seed=seed, advance=advance, start=earlier, fitted_to=frames
            )
            quantised = rows.unflatten(0, real.shape[:2])
            self.postfilter = postfilter.fit(
                quantised,
                quantised @ self.codebook.components + self.codebook.mean,
                real,
                phases,
                self.weight,
                bins_hz=self.bins_hz,
                floor=s.floor,
                hop=self.hop,
                steps=s.postfilter_steps,
                seed=seed,
                start=self.postfilter.state_dict() if start else None,
                advance=advance,
            )

    def _sampled(self, pieces: Sequence[Piece], frames: int, seed: int) -> tuple[torch.Tensor, ...]:
        """Vectors and phases `(T, K)` of sampled frames, and which are of whole runs, `(T,)`."""
        rows, bins = max(frames, RUN), len(self.bins_hz)
        vectors, phases, whole = torch.empty(rows, bins), torch.empty(rows, bins, dtype=torch.half), torch.empty(rows)
        filled = 0
        for run in self.sample(pieces, frames, seed):
            here = slice(filled, filled := filled + len(run))
            vectors[here], phases[here], whole[here] = self.vectors(run), run.angle().half(), len(run) == RUN
        return vectors[:filled], phases[:filled], whole[:filled].bool()

    def shares(self, pieces: Sequence[Piece]) -> list[float]:
        s, frames = self.section, self.frames_to_fit(pieces)
        centroids, few = self._centroids(frames), min(frames, WHOLE_FRAMES)
        shares = [0.0, 0.0] + [
            float(frames * centroids)
        ] * s.levels  # reading, which may wait for a disk, tells nothing
        if s.postfilter_steps:
            halves = 2 * s.levels if frames < codebook.PLENTY * centroids else 0
            steps = postfilter.step_count(few // RUN, s.postfilter_steps)
            shares += [few / 2 * centroids] * halves + [POSTFILTER_STEP * steps / postfilter.TOLD] * postfilter.TOLD
        return shares

    def _centroids(self, frames: int) -> int:
        """How many a codebook has that is fitted to so many frames."""
        s = self.section
        enough = frames // s.frames_per_centroid if s.frames_per_centroid else s.centroids
        return min(s.centroids, max(MIN_CENTROIDS, enough))

    def frames_to_fit(self, pieces: Sequence[Piece]) -> int:
        """How many frames of these the levels are fitted to."""
        return min(self.section.fit_frames, sum(self.steps(piece) for piece in pieces))

    def _set_codebook(self, quantiser: codebook.ResidualCodebook) -> None:
        self.codebook = quantiser
        vocabulary = (quantiser.centroids.shape[1],) * quantiser.levels
        self.spec = StreamSpec(self.steps_per_second, vocabulary, vectors=quantiser.centroids)

    def vectors(self, frames: torch.Tensor) -> torch.Tensor:
        """Complex `(T, K)` to weighted logarithms of magnitude over full scale, plus a floor, `(T, K)`."""
        magnitude = torch.from_numpy(np.abs(frames.numpy()))  # a tenth of the time of torch's
        return magnitude.div_(self.full_scale).add_(self.section.floor).log_().mul_(self.weight)

    def from_complex(self, frames: torch.Tensor) -> torch.Tensor:
        return self.codebook.encode(self.vectors(frames))

    def magnitude(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(T, L)` to STFT magnitudes `(T, K)`."""
        return self.magnitude_between(pad_edges(self.codebook.dequantize(codes)))

    @torch.no_grad()
    def magnitude_between(self, components: torch.Tensor) -> torch.Tensor:
        """Principal components `(PAST + T + AHEAD, P)` to STFT magnitudes `(T, K)` of all but the edges."""
        inner = components[PAST : len(components) - AHEAD]
        weighted = inner @ self.codebook.components + self.codebook.mean + self.postfilter(components)
        return ((weighted / self.weight).exp() - self.section.floor).clamp(min=0) * self.full_scale

    def decoder(self, prompt: Piece | None = None) -> "CodebookDecoder":
        return CodebookDecoder(self, prompt)

    def state(self) -> State:
        c = self.codebook
        learned = {f"postfilter.{name}": tensor for name, tensor in self.postfilter.state_dict().items()}
        return {"mean": c.mean, "components": c.components, "centroids": c.centroids} | learned

    def load_state(self, state: State) -> None:
        s, bins = self.section, len(self.bins_hz)
        mean, components = _shaped(state, "mean", (bins,)), _shaped(state, "components", (s.components, bins))
        classes = min([s.centroids, *state["centroids"].shape[1:2]])  # a small corpus has fewer
        centroids = _shaped(state, "centroids", (s.levels, max(2, classes), s.components))
        self._set_codebook(codebook.ResidualCodebook(mean, components, centroids))
        learned = {n.removeprefix("postfilter."): t for n, t in state.items() if n.startswith("postfilter.")}
        self.postfilter.load_state_dict(learned)
        self.postfilter.eval().requires_grad_(False)


class CodebookDecoder(Decoder):
    """Codes to magnitudes, magnitudes to `[magnitude | phase]` frames, frames to audio."""

    def __init__(self, featurizer: CodebookFeaturizer, prompt: Piece | None) -> None:
        tail = featurizer.tail(prompt)
        self.featurizer = featurizer
        self.phase = PhaseStream(featurizer.n_fft, featurizer.hop, tail=tail)
        self.overlap = OverlapAdd(featurizer.n_fft, featurizer.hop, tail)
        self.overlap_samples = featurizer.n_fft - featurizer.hop
        self.recent = self._heard(prompt) if prompt else None  # components (PAST or PAST + AHEAD, P)
        self.steps: list[torch.Tensor] = []  # that came after them

    def _heard(self, prompt: Piece) -> torch.Tensor:
        """Principal components `(PAST, P)` of the prompt's last frames; the first is repeated where it is short."""
        f, length = self.featurizer, len(prompt.samples)
        count = min(PAST, 1 + (length - f.n_fft) // f.hop)
        audio = prompt.read(length - f.n_fft - (count - 1) * f.hop, length)
        return pad_edges(f.codebook.dequantize(f.from_complex(spectrum(audio, f.n_fft, f.hop))))[count : PAST + count]

    def push(self, step: torch.Tensor) -> np.ndarray:
        self.steps.append(step)
        seen = PAST if self.recent is None else len(self.recent)
        due = TOGETHER if seen == PAST + AHEAD else BLOCK  # the first ones are waited for
        if seen + len(self.steps) < PAST + due + AHEAD:
            return np.zeros(0, np.float32)
        return self._decode(self._components())

    def finish(self) -> np.ndarray:
        components, rest = self._components() if self.steps else self.recent, np.zeros(0, np.float32)
        if components is not None and len(components) > PAST:
            rest = self._decode(torch.cat([components, components[-1:].expand(AHEAD, -1)]))
        return np.concatenate([rest, self.overlap.push(self.phase.finish()), self.overlap.finish()])

    def _components(self) -> torch.Tensor:
        """The principal components of the steps that came, after those before them; silence begins like the first."""
        new = self.featurizer.codebook.dequantize(torch.stack(self.steps))
        self.steps = []
        return torch.cat([new[:1].expand(PAST, -1) if self.recent is None else self.recent, new])

    def _decode(self, components: torch.Tensor) -> np.ndarray:
        """The samples that are final with frames `(PAST + n + AHEAD, P)`; the next ones need the last of them."""
        self.recent = components[len(components) - PAST - AHEAD :]
        magnitudes = self.featurizer.magnitude_between(components).numpy()
        return np.concatenate([self.overlap.push(self.phase.push(row)) for row in magnitudes])


class NotesFeaturizer(Featurizer[Song]):
    """What featurizers of notes share: a codec, which is fitted to the corpus. Subclasses say which."""

    modality = "notes"
    codec: Codec

    def __init__(self, section: GridSection | RemiSection, sample_rate_hz: int) -> None:
        self.section = section

    @abstractmethod
    def fitted(self, songs: Sequence[Song]) -> Codec:
        """A codec for songs like these."""

    @abstractmethod
    def restored(self, data: dict[str, Any]) -> Codec:
        """The codec that its `to_dict` described."""

    def fit(
        self, pieces: Sequence[Song], *, seed: int, advance: Callable[[str], None], start: State | None = None
    ) -> None:
        if start:
            self.load_state(start)
            return
        advance("collecting a vocabulary")
        codec = self.fitted(pieces)
        few = [pieces[i] for i in np.random.default_rng(seed).permutation(len(pieces))[:64]]
        steps = sum(len(codec.encode(song)) for song in few)
        self._set_codec(codec, steps / sum(song.seconds for song in few))

    def _set_codec(self, codec: Codec, steps_per_second: float) -> None:
        self.codec = codec
        marks = codec.ranks, codec.follows, codec.opens
        ranks, follows, opens = (None if array is None else torch.from_numpy(array) for array in marks)
        self.spec = StreamSpec(steps_per_second, codec.vocabulary, ranks=ranks, follows=follows, opens=opens)

    def layout(self) -> str:
        return self.section.model_dump_json()

    def encode(self, piece: Song, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return torch.from_numpy(self.codec.encode(piece))[start:stop]

    def encode_prompt(self, prompt: Song) -> torch.Tensor:
        codes = self.encode(prompt)
        if not len(codes):
            raise ValueError(f"the prompt {prompt.source} is too short: there is nothing in it to continue")
        return codes

    def decode(self, codes: torch.Tensor, like: Song | None = None) -> Song:
        """Codes `(T, L)` to a song."""
        return self.codec.decode(codes.numpy(), like)

    def state(self) -> State:
        text = json.dumps(self.codec.to_dict(), sort_keys=True).encode()
        pace = torch.tensor(self.spec.steps_per_second, dtype=torch.float64)
        return {"codec": torch.frombuffer(bytearray(text), dtype=torch.uint8), "steps_per_second": pace}

    def load_state(self, state: State) -> None:
        data, pace = json.loads(state["codec"].numpy().tobytes()), float(state["steps_per_second"])
        if not 0 < pace < math.inf:
            raise ValueError(f"{pace} steps per second")
        self._set_codec(self.restored(data), pace)


class ChordFeaturizer(NotesFeaturizer):
    """Events of notes, chords and rests, with their lengths and distances: see `continuo.symbolic.chords`."""

    section: ChordsSection

    def fitted(self, songs: Sequence[Song]) -> Codec:
        s = self.section
        return ChordCodec.fit(songs, steps_per_quarter=s.steps_per_quarter, classes=s.classes)

    def restored(self, data: dict[str, Any]) -> Codec:
        return ChordCodec.from_dict(data)


class RollFeaturizer(NotesFeaturizer):
    """What sounds at each step of a grid, as ascending sets: see `continuo.symbolic.roll`."""

    section: RollSection
    codec: RollCodec

    def fitted(self, songs: Sequence[Song]) -> Codec:
        s = self.section
        return RollCodec.fit(songs, steps_per_quarter=s.steps_per_quarter, strikes=s.strikes, most=s.most)

    def out_of_range(self, prompt: Song) -> int:
        return self.codec.out_of_range(prompt)

    def restored(self, data: dict[str, Any]) -> Codec:
        return RollCodec.from_dict(data)


class RemiFeaturizer(NotesFeaturizer):
    """REMI+ tokens with their grammar: see `continuo.symbolic.remi`."""

    section: RemiSection

    def fitted(self, songs: Sequence[Song]) -> Codec:
        s = self.section
        grid = {"steps_per_quarter": s.steps_per_quarter, "velocities": s.velocities}
        return RemiCodec.fit(songs, **grid, bpe=s.bpe)

    def restored(self, data: dict[str, Any]) -> Codec:
        return RemiCodec.from_dict(data)


FEATURIZERS: dict[str, Callable[..., Featurizer[Any]]] = {
    "spectrum": SpectrumFeaturizer,
    "codebook": CodebookFeaturizer,
    "chords": ChordFeaturizer,
    "roll": RollFeaturizer,
    "remi": RemiFeaturizer,
}
