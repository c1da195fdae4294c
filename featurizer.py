"""Featurizers turn a piece into a stream of steps, and a stream back into music.

A `Featurizer` is fitted to pieces, encodes a piece to a stream as its `spec` describes, and decodes it: sound by a
`decoder`, one step at a time, notes by `decode`. It is rebuilt from its section of the metadata and its `state()`,
without the corpus. Featurizers of codes are adapters of a codec: `SpectralCodec` for sound, `NoteCodec` for notes.
The public frame of the audio line is `[magnitude | phase]`, 2K values for K = n_fft // 2 + 1 bins.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from continuo.audio.decoder import Decoder, SpectrumDecoder
from continuo.audio.piece import Piece
from continuo.audio.stft import check_hop, from_frames, inverse, spectrum, to_frames
from continuo.codec.codec import RUN, SAMPLED, SpectralCodec, Tensors, checked
from continuo.codec.decoder import PROMPT_FRAMES, CodecDecoder
from continuo.codec.quantizer import STRETCH
from continuo.codec.vectors import HOP, N_FFT, RATE_HZ
from continuo.model import metadata
from continuo.model.stream import StreamSpec
from continuo.symbolic.chords import ChordCodec
from continuo.symbolic.codec import NoteCodec
from continuo.symbolic.remi import RemiCodec
from continuo.symbolic.roll import RollCodec
from continuo.symbolic.song import Song
from continuo.system.workers import check_cancelled

P = TypeVar("P", Piece, Song)
NOTE_CODECS: dict[str, type[NoteCodec]] = {"chords": ChordCodec, "roll": RollCodec, "remi": RemiCodec}
FIT_ARGUMENTS = {"strikes": "reattacks", "most": "max_notes"}  # of note codecs, for metadata keys with other names
ENCODE_ROWS = 256  # spectra that are computed together; they stay in the processor's cache
MAX_PROMPT_S = 60.0  # s; of a longer sound prompt only the end is encoded, more than a model remembers
FIT_VERSION = 9  # part of the cache key of what was fitted; raise it when a fit or an adaptation changes


class Featurizer(ABC, Generic[P]):
    """Represent pieces of type P as streams: `Piece`, which is sound, or `Song`, which is notes."""

    modality: str  # "sound" or "notes"
    fitting: str  # what `fit` does, in a few words for the terminal; empty if it takes no time
    spec: StreamSpec  # describes the streams; present once the featurizer is fitted or loaded

    @abstractmethod
    def fit(self, pieces: Sequence[P], *, seed: int, start: Tensors | None = None) -> None:
        """Learn what encoding needs; with `start`, an earlier state, codes keep their meaning."""

    @property
    def settled(self) -> bool:
        """Return whether there is nothing left to adapt."""
        return True

    def adapt(self, pieces: Sequence[P], *, seed: int) -> Iterator[None]:
        """Learn what only decoding needs, part by part, while something else goes on; codes stay as they are."""
        return iter(())

    @abstractmethod
    def encode(self, piece: P, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return steps `start` to `stop` of a piece, `(T, L)` int64 or `(T, F)` float32; read only what they need."""

    def steps(self, piece: P) -> int:
        """Return the number of steps of a whole piece."""
        return len(self.encode(piece))

    @abstractmethod
    def encode_prompt(self, prompt: P) -> torch.Tensor:
        """Return the stream of a prompt, whose last step ends where the prompt ends; ValueError if it has no step."""

    def out_of_range(self, prompt: P) -> int:
        """Return how many notes of a prompt lie beyond the corpus's range and are moved when it is encoded."""
        return 0

    @abstractmethod
    def state(self) -> Tensors:
        """Return everything fitted, as tensors."""

    def fingerprint(self) -> str:
        """Return a digest that changes whenever the same piece would be encoded differently."""
        return digest(self.layout(), self.state())

    @abstractmethod
    def layout(self) -> str:
        """Return the settings on which encoding depends, as text."""

    @abstractmethod
    def load_state(self, state: Tensors) -> None:
        """Load what `state()` of a featurizer with the same section returned."""


class StftFeaturizer(Featurizer[Piece]):
    """Lay the frame grid that the featurizers of sound share. Subclasses define the step that a frame becomes."""

    modality = "sound"

    def __init__(self, section: metadata.StftSection, sample_rate_hz: int, channels: int = 1) -> None:
        check_hop(section.n_fft, section.hop)
        self.section, self.sample_rate_hz, self.channels = section, sample_rate_hz, channels
        self.n_fft, self.hop = section.n_fft, section.hop
        self.steps_per_second = sample_rate_hz / section.hop

    def layout(self) -> str:
        channels = ", 2 channels" * (self.channels - 1)
        return f"{self.sample_rate_hz} Hz{channels}, {self.section.model_dump_json()}"

    @abstractmethod
    def decoder(self, prompt: Piece | None = None) -> Decoder:
        """Return a decoder that continues from the end of the prompt, or from silence."""

    @abstractmethod
    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the steps `(T, L)` or `(T, F)` of complex frames `(T, K)`."""

    def _read(self, piece: Piece, start: int, stop: int) -> np.ndarray:
        """Return samples of a piece at `REFERENCE_DB`: `(n,)`, or `(n, 2)` of a stereo piece for a stereo codec."""
        return piece.read_channels(start, stop) if self.channels == 2 else piece.read(start, stop)

    def steps(self, piece: Piece) -> int:
        return 1 + math.ceil(len(piece.samples) / self.hop)

    def encode(self, piece: Piece, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return steps; frame `t` is centered on sample `t * hop`, so edge frames reach half a window outside."""
        return self._encode(piece, -(self.n_fft // 2), start, self.steps(piece) if stop is None else stop)

    def _encode(self, piece: Piece, origin: int, start: int, stop: int) -> torch.Tensor:
        """Return steps `start` to `stop` of the grid whose frame `t` begins at sample `origin + t * hop`."""
        parts = []
        for first in range(start, stop, ENCODE_ROWS):
            check_cancelled()
            last = min(first + ENCODE_ROWS, stop) - 1
            audio = self._read(piece, origin + first * self.hop, origin + last * self.hop + self.n_fft)
            parts.append(self.encode_frames(spectrum(audio, self.n_fft, self.hop)))
        return torch.cat(parts)

    def encode_prompt(self, prompt: Piece) -> torch.Tensor:
        length = len(prompt.samples)
        if length < self.n_fft:
            needed = f"at least {self.n_fft / self.sample_rate_hz:.3f} s (one frame) are needed"
            raise ValueError(f"the prompt {prompt.source} is too short: {prompt.seconds:.3f} s, {needed}")
        frames = min((length - self.n_fft) // self.hop, int(MAX_PROMPT_S * self.steps_per_second)) + 1
        return self._encode(prompt, length - self.n_fft - (frames - 1) * self.hop, 0, frames)

    def tail(self, prompt: Piece | None, max_frames: int = 1) -> np.ndarray | None:
        """Return the end of a prompt at `REFERENCE_DB`: the samples that its last 1 to `max_frames` frames cover."""
        if prompt is None:
            return None
        length = len(prompt.samples)
        frames = min(max_frames, 1 + (length - self.n_fft) // self.hop)
        return self._read(prompt, length - self.n_fft - (frames - 1) * self.hop, length)

    def sample(self, pieces: Sequence[Piece], frames: int, seed: int, run_frames: int = RUN) -> Iterable[torch.Tensor]:
        """Yield about `frames` complex frames in runs of at most `run_frames` from random places, or all there are."""
        counts = np.array([self.steps(piece) for piece in pieces], np.int64)
        ends = np.cumsum(-(-counts // run_frames))  # runs up to the end of each piece
        runs = np.arange(ends[-1])
        if counts.sum() > frames:
            runs = np.sort(np.random.default_rng(seed).choice(len(runs), max(1, frames // run_frames), replace=False))
        for run in runs:
            p = int(np.searchsorted(ends, run, side="right"))
            start = run_frames * int(run - (ends[p - 1] if p else 0))
            stop = min(start + run_frames, int(counts[p]))
            audio = self._read(pieces[p], start * self.hop - self.n_fft // 2, (stop - 1) * self.hop + self.n_fft // 2)
            yield spectrum(audio, self.n_fft, self.hop)


class SpectrumFeaturizer(StftFeaturizer):
    """Steps are `[magnitude | phase]` frames: exact in both directions, for any hop that the window allows."""

    fitting = "measuring the spectra"

    def __init__(self, section: metadata.SpectrumSection, sample_rate_hz: int, channels: int = 1) -> None:
        super().__init__(section, sample_rate_hz)  # always mono
        self._set_moments(torch.zeros(self.n_fft + 2), torch.ones(self.n_fft + 2))

    def fit(self, pieces: Sequence[Piece], *, seed: int, start: Tensors | None = None) -> None:
        """Measure mean and deviation of every value over at most 20,000 frames, or take those of `start`."""
        if start:
            self.load_state(start)
            return
        frames = torch.cat([to_frames(run) for run in self.sample(pieces, 20_000, seed)])
        self._set_moments(frames.mean(0), frames.std(0) + 1e-3)

    def _set_moments(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self.mean, self.deviation = mean, deviation
        self.spec = StreamSpec(self.steps_per_second, features=self.n_fft + 2, mean=mean, deviation=deviation)

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return to_frames(frames)

    def decode(self, frames: torch.Tensor) -> np.ndarray:
        """Invert `encode` for a whole piece: `(T, 2K)` to `((T - 1) * hop,)` samples, to float precision."""
        return inverse(from_frames(frames), self.n_fft, self.hop)

    def decoder(self, prompt: Piece | None = None) -> SpectrumDecoder:
        return SpectrumDecoder(self.n_fft, self.hop, self.tail(prompt))

    def state(self) -> Tensors:
        return {"mean": self.mean, "deviation": self.deviation}

    def load_state(self, state: Tensors) -> None:
        self._set_moments(*(checked(state, name, (self.n_fft + 2,)) for name in ("mean", "deviation")))


class CodecFeaturizer(StftFeaturizer):
    """Steps are the codes of `SpectralCodec`; `continuo.audio.phase` finds phases that continue the prompt's."""

    fitting = ""

    def __init__(self, section: metadata.CodecSection, sample_rate_hz: int, channels: int = 1) -> None:
        if sample_rate_hz != RATE_HZ:
            raise ValueError(f"corpus.sample_rate_hz must be {RATE_HZ} for the codec, not {sample_rate_hz}")
        super().__init__(metadata.StftSection(n_fft=N_FFT, hop=HOP), sample_rate_hz, channels)
        self.codec = SpectralCodec(channels, section.adaptation_steps)
        centroids, decay = self.codec.quantizer.centroids, self.codec.quantizer.decay
        self.spec = StreamSpec(self.steps_per_second, self.codec.vocabulary, vectors=centroids, decay=decay)

    def fit(self, pieces: Sequence[Piece], *, seed: int, start: Tensors | None = None) -> None:
        """Decide on the number of channels; what a folder teaches is left to `adapt`, which goes on from `start`."""
        if start:
            self.codec.load_dict(start | {"settled": torch.tensor(self.settled)})
        mono = all(piece.channels == 1 for piece in pieces)  # a mono corpus stays mono
        self.channels = self.codec.channels = 1 if mono else self.channels

    @property
    def settled(self) -> bool:
        return self.codec.settled

    def adapt(self, pieces: Sequence[Piece], *, seed: int) -> Iterator[None]:
        return self.codec.adapt(partial(self.sample, pieces, seed=seed, run_frames=SAMPLED), seed=seed)

    def layout(self) -> str:
        shipped = self.codec.digest.numpy().tobytes().hex()
        return f"{super().layout()}, codec {shipped}, {self.codec.adaptation_steps} steps on the folder"

    def fingerprint(self) -> str:
        return digest(f"{super().layout()}, codec {self.codec.digest.numpy().tobytes().hex()}", {})

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return self.codec.encode(frames)

    def _encode(self, piece: Piece, origin: int, start: int, stop: int) -> torch.Tensor:
        first = start // STRETCH  # whole stretches are read, since codes depend on what is coded together
        stretches = range(first - 1, -(-stop // STRETCH))
        parts = [self._components(piece, origin, stretch) for stretch in stretches]
        return self.codec.quantizer.encode_stretches(torch.stack(parts))[start - first * STRETCH :][: stop - start]

    def _components(self, piece: Piece, origin: int, stretch: int) -> torch.Tensor:
        """Return the components `(STRETCH, P)` of a stretch; outside of the piece there is silence."""
        check_cancelled()
        begin = origin + stretch * STRETCH * self.hop
        audio = self._read(piece, begin, begin + (STRETCH - 1) * self.hop + self.n_fft)
        return self.codec.project(spectrum(audio, self.n_fft, self.hop))

    def decoder(self, prompt: Piece | None = None) -> CodecDecoder:
        return CodecDecoder(self.codec, self.tail(prompt, PROMPT_FRAMES))

    def state(self) -> Tensors:
        return self.codec.to_dict()

    def load_state(self, state: Tensors) -> None:
        self.codec.load_dict(state)
        self.channels = self.codec.channels


class NotesFeaturizer(Featurizer[Song]):
    """Steps are the codes of a `NoteCodec`: events, slices of a grid, or tokens; see `continuo.symbolic`."""

    modality, fitting = "notes", "collecting the vocabulary"
    codec: NoteCodec

    def __init__(
        self,
        section: metadata.ChordsSection | metadata.RollSection | metadata.RemiSection,
        sample_rate_hz: int,
        channels: int = 1,
    ) -> None:
        self.section, self.codec_type = section, NOTE_CODECS[section.kind]

    def fit(self, pieces: Sequence[Song], *, seed: int, start: Tensors | None = None) -> None:
        """Collect a vocabulary and measure the pace on at most 64 songs, or take those of `start`."""
        if start:
            self.load_state(start)
            return
        keys = self.section.model_dump(exclude={"kind"})
        codec = self.codec_type.fit(pieces, **{FIT_ARGUMENTS.get(key, key): value for key, value in keys.items()})
        few = [pieces[i] for i in np.random.default_rng(seed).permutation(len(pieces))[:64]]
        self._set_codec(codec, sum(len(codec.encode(song)) for song in few) / sum(song.seconds for song in few))

    def _set_codec(self, codec: NoteCodec, steps_per_second: float) -> None:
        self.codec = codec
        arrays = codec.ranks, codec.follows, codec.opens
        ranks, follows, opens = (None if array is None else torch.from_numpy(array) for array in arrays)
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

    def out_of_range(self, prompt: Song) -> int:
        return self.codec.out_of_range(prompt)

    def decode(self, codes: torch.Tensor, like: Song | None = None) -> Song:
        """Return the song of codes `(T, L)`; `like` lends it tempo, meters and program."""
        return self.codec.decode(codes.numpy(), like)

    def state(self) -> Tensors:
        text = json.dumps(self.codec.to_dict(), sort_keys=True).encode()
        pace = torch.tensor(self.spec.steps_per_second, dtype=torch.float64)
        return {"codec": torch.frombuffer(bytearray(text), dtype=torch.uint8), "steps_per_second": pace}

    def load_state(self, state: Tensors) -> None:
        data, pace = json.loads(state["codec"].numpy().tobytes()), float(state["steps_per_second"])
        if not 0 < pace < math.inf:
            raise ValueError(f"{pace} steps per second")
        self._set_codec(self.codec_type.from_dict(data), pace)


def digest(text: str, tensors: Tensors) -> str:
    """Return a digest of text and of tensors by name."""
    whole = hashlib.blake2b(text.encode(), digest_size=20)
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()


Make = Callable[..., Featurizer[Any]]
FEATURIZERS: dict[str, Make] = {"spectrum": SpectrumFeaturizer, "codec": CodecFeaturizer}
FEATURIZERS |= dict.fromkeys(NOTE_CODECS, NotesFeaturizer)


def build_featurizer(of: metadata.Metadata) -> Featurizer[Any]:
    """Return the featurizer that the metadata of a model describes, not fitted."""
    return FEATURIZERS[of.representation.kind](of.representation, of.corpus.sample_rate_hz, of.corpus.channels)
