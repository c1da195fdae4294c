"""Predictor: load a model, process a prompt, draw steps, decode them. It prints nothing and parses no arguments.

    predictor = Predictor.load(Path("model.json"))
    take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
    audio = np.concatenate([*take.samples(500), take.finish()])     # of a model of sound
    song = take.song(500)                                            # of a model of notes

It needs only the metadata file and the state file that it names: no corpus, and no GPU if training had one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

import corpus
from continuo.audio.files import with_channels
from continuo.audio.piece import Piece
from continuo.model import checkpoint, metadata
from continuo.model.metadata import Sampling
from continuo.model.onnx_step import flat_state, step_graph
from continuo.score.performance import SCORE_ENDINGS
from continuo.score.synth import choose_soundfont, render
from continuo.symbolic.song import Song
from continuo.system.paths import command
from continuo.system.workers import prefetch
from featurizer import Featurizer, NotesFeaturizer, StftFeaturizer, build_featurizer
from generation import STEPS_PER_CALL, StepRunner, Stream, StreamBatch, single_stream
from model_definition import LevelHead, SequenceModel, State, build_model, model_size

Arrays = dict[str, np.ndarray]
Prompt = Piece | Song
PRIME_STEPS = 4096  # steps of a prompt that the model processes in one call
AHEAD = 4  # multiples of `STEPS_PER_CALL` steps that are drawn while earlier ones are decoded
MIN_CONTINUATION_S = 2.0  # no piece ends earlier: prompts often close with a cadence, and users want more music
BLOCK_SAMPLES = 1 << 18  # samples of the prompt in one block


class Predictor:
    """A trained model, ready to continue prompts.

    The state is that of training step `step`, and the weights those of `weights_step`: the latest average while the
    held-out loss still falls, else the best one. `metadata` is what the state was trained with.
    """

    def __init__(
        self, featurizer: Featurizer[Any], model: SequenceModel, device: torch.device, facts: checkpoint.Facts
    ) -> None:
        self.featurizer, self.model, self.device, self.facts = featurizer, model.to(device).eval(), device, facts
        self.metadata = metadata.Metadata.model_validate(facts["metadata"])
        self.modality, self.steps_per_second = featurizer.modality, featurizer.spec.steps_per_second
        self.sample_rate_hz = self.metadata.corpus.sample_rate_hz
        self.sampling = Sampling(**self.metadata.sampling.model_dump())  # where a take is given none
        self.soundfont: Path | None = None  # renders prompts and songs; None: the one that rendered the corpus
        progress = facts["progress"]
        self.step = progress.step
        best_step = None if checkpoint.weights_prefix(progress) == "average" else progress.best_step
        self.weights_step = self.step if best_step is None else best_step

    @classmethod
    def load(cls, meta_path: Path, device: torch.device | None = None) -> "Predictor":
        """Load the model of a metadata file; ValueError: a file is missing or damaged, or they do not match."""
        meta = metadata.load(meta_path)
        path = metadata.state_path(meta, meta_path)
        if not path.exists():
            first = f"train first ({command('train')} --meta {meta_path})"
            raise ValueError(f"there is no state {path} yet: {first}, the first save comes within a minute")
        tensors, facts = checkpoint.load_model(path, "featurizer.", "best.", "average.")
        metadata.check_same_model(meta, facts["metadata"], path)
        metadata.validated(facts["metadata"], {}, source=path.name)
        fitted = checkpoint.under_prefix("featurizer", tensors)
        weights = checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors)
        with checkpoint.mismatch_refused(path):
            predictor = cls.from_tensors(facts, fitted, weights, device or torch.device("cpu"))
        predictor.sampling = Sampling(**meta.sampling.model_dump())
        return predictor

    @classmethod
    def from_tensors(
        cls, facts: checkpoint.Facts, fitted: checkpoint.Tensors, weights: checkpoint.Tensors, device: torch.device
    ) -> "Predictor":
        """Build a predictor from the parts of a state; it raises `STATE_MISMATCH_ERRORS` where they do not match."""
        saved = metadata.Metadata.model_validate(facts["metadata"])
        featurizer = build_featurizer(saved)
        featurizer.load_state(fitted)
        needed, found = model_size(saved.architecture, featurizer.spec)[0], sum(w.numel() for w in weights.values())
        if found < needed:  # refused before memory is allocated for the model
            raise ValueError(f"{found:,} weights, where the model has {needed:,}")
        model = build_model(saved.architecture, featurizer.spec)
        model.load_weights(weights)
        return cls(featurizer, model, device, facts)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the predictor for another process: facts and arrays. That process builds its own step graph."""
        parts = self.featurizer.state(), self.model.state_dict()
        arrays = [{name: tensor.cpu().numpy() for name, tensor in part.items()} for part in parts]
        return _rebuilt, (self.facts, *arrays, self.device.type, self.sampling, self.soundfont)

    @cached_property
    def runner(self) -> StepRunner | None:
        """The graph that draws many steps in one call; None where the model has none and steps by itself."""
        return StepRunner(step_graph(self.model)) if self.device.type == "cpu" and self.model.has_step_graph else None

    @cached_property
    def channels(self) -> int:
        """Return the number of channels of the sound that the model makes: 1, or 2 for left and right."""
        featurizer = self.featurizer
        return featurizer.decoder().channels if isinstance(featurizer, StftFeaturizer) else 1

    def prompt(self, path: Path, *, ring_out: bool = False) -> Prompt:
        """Read a score, MIDI or audio file as a prompt: a `Piece`, rendered as the corpus was, or a `Song`.

        `ring_out`: keep the sound after the last note of a score. ValueError: the file cannot be continued.
        """
        if self.modality == "notes":
            return corpus.load_prompt_song(path)
        section = self.in_channels(self.metadata.corpus)
        if path.suffix.lower() not in SCORE_ENDINGS:
            unused = f"is a recording: the SoundFont {self.soundfont.name} is not used" if self.soundfont else ""
            return replace(corpus.load_prompt(path, section, ring_out=ring_out), rendering=unused)
        section, remark = self.with_soundfont(section)
        return replace(corpus.load_prompt(path, section, ring_out=ring_out), rendering=remark)

    def in_channels(self, section: metadata.CorpusSection) -> metadata.CorpusSection:
        """Return a corpus that is mixed to mono as it is decoded if the model makes mono, so that nothing cancels."""
        return section.model_copy(update={"channels": min(section.channels, self.channels)})

    def with_soundfont(self, section: metadata.CorpusSection) -> tuple[metadata.CorpusSection, str]:
        """Return a corpus whose scores are rendered as this model's were, and a remark if that cannot be."""
        place = Path(section.soundfont).expanduser() if section.soundfont else None
        font, remark = choose_soundfont(self.soundfont, self.facts.get("soundfont"), place)
        return section.model_copy(update={"soundfont": str(font)}), remark

    def render(self, song: Song) -> np.ndarray:
        """Render a song with the model's sample rate and SoundFont, float32 `(N,)`."""
        section, _ = self.with_soundfont(self.metadata.corpus)
        return render(song.performance(), self.sample_rate_hz, soundfont=Path(str(section.soundfont)))

    @overload
    def take(
        self, prompt: Piece, *, seed: int = 0, sampling: Sampling | None = None, until_end: bool = False
    ) -> "SoundTake": ...
    @overload
    def take(
        self, prompt: Song, *, seed: int = 0, sampling: Sampling | None = None, until_end: bool = False
    ) -> "SongTake": ...
    @overload
    def take(
        self, prompt: Prompt | None, *, seed: int = 0, sampling: Sampling | None = None, until_end: bool = False
    ) -> "SoundTake | SongTake": ...
    def take(
        self, prompt: Prompt | None, *, seed: int = 0, sampling: Sampling | None = None, until_end: bool = False
    ) -> "SoundTake | SongTake":
        """Begin a continuation of `prompt`, or a new piece where that is None. The same seed gives the same steps.

        Where the model ends the piece, after two seconds at the earliest, another one begins, or, with `until_end`,
        the take stops. ValueError: the prompt is shorter than a step.
        """
        return self.takes(prompt, [seed], sampling=sampling, until_end=until_end)[0]

    def takes(
        self, prompt: Prompt | None, seeds: Sequence[int], *, sampling: Sampling | None = None, until_end: bool = False
    ) -> "Sequence[SoundTake | SongTake]":
        """Begin takes of one prompt that are drawn together. Each is the one that `take` gives for its seed."""
        codes = None if prompt is None else self.featurizer.encode_prompt(prompt)
        streams = self._streams(codes, seeds, sampling or self.sampling)
        if isinstance(self.featurizer, NotesFeaturizer):
            assert not isinstance(prompt, Piece)
            return [SongTake(self, prompt, codes, stream, until_end) for stream in streams]
        assert not isinstance(prompt, Song)
        return [SoundTake(self, prompt, stream, until_end) for stream in streams]

    def _streams(self, prompt_codes: torch.Tensor | None, seeds: Sequence[int], sampling: Sampling) -> list[Stream]:
        context, state = self._primed(prompt_codes)
        min_steps = math.ceil(MIN_CONTINUATION_S * self.steps_per_second)
        if self.runner is None or sampling.top_p < 1:
            return [single_stream(self.model, context, state, seed, sampling, min_steps) for seed in seeds]
        flat = flat_state(self.model, context, state)
        batch = StreamBatch(self.runner, flat, seeds, self.temperatures(sampling), min_steps)
        return [batch.stream(row) for row in range(len(seeds))]

    def temperatures(self, sampling: Sampling) -> list[float]:
        """Return the temperature of each level of a step; an empty list for steps without levels."""
        if not isinstance(head := self.model.head, LevelHead):
            return []
        return [head.temperature(sampling, level) for level in range(head.levels)]

    @torch.inference_mode()
    def _primed(self, prompt_codes: torch.Tensor | None) -> tuple[torch.Tensor, State]:
        """Return the context `(1, W)` of the first step to draw, and the model's state before it."""
        context, state = self.model.bos_context(1), self.model.initial_state(1)
        for part in () if prompt_codes is None else prompt_codes.to(self.device).split(PRIME_STEPS):
            contexts, state = self.model(part[None], state)
            context = contexts[:, -1]
        return context, state


def _rebuilt(
    facts: checkpoint.Facts, fitted: Arrays, weights: Arrays, device: str, sampling: Sampling, soundfont: Path | None
) -> Predictor:
    """Build a predictor from the parts that `Predictor.__reduce__` pickles."""
    state, model = ({name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in (fitted, weights))
    predictor = Predictor.from_tensors(facts, state, model, torch.device(device))
    predictor.sampling, predictor.soundfont = sampling, soundfont
    return predictor


class Take:
    """One continuation while it is made."""

    def __init__(self, predictor: Predictor, stream: Stream, until_end: bool) -> None:
        self.stream, self.until_end, self.steps_per_second = stream, until_end, predictor.steps_per_second
        self.made = 0  # number of steps drawn so far
        self.endings: list[float] = []  # seconds after the prompt at which the model ended a piece
        self.ended_at: list[int] = []  # the same places in steps

    def steps(self, count: int) -> Iterator[torch.Tensor]:
        """Draw `count` more steps, `(L,)` or `(F,)` each, on the CPU; fewer where the piece ends, with `until_end`."""
        for step, starts_new_piece in islice(self.stream, count):
            if starts_new_piece:
                self.endings.append(self.made / self.steps_per_second)
                self.ended_at.append(self.made)
                if self.until_end:
                    return
            self.made += 1
            yield step


class SoundTake(Take):
    """A continuation as sound, at the loudness of the prompt, decoded while its steps are drawn.

    The first `overlap_samples` replace the end of the prompt: prompt and continuation are overlap-added like any two
    frames. The samples do not depend on how many steps are requested at once.
    """

    def __init__(self, predictor: Predictor, prompt: Piece | None, stream: Stream, until_end: bool) -> None:
        super().__init__(predictor, stream, until_end)
        assert isinstance(predictor.featurizer, StftFeaturizer)
        self.prompt, self.decoder = prompt, predictor.featurizer.decoder(prompt)
        self.channels, self.overlap_samples = predictor.channels, self.decoder.overlap_samples
        self.gain = np.float32(1.0 if prompt is None else prompt.gain)

    def samples(self, count: int) -> Iterator[np.ndarray]:
        """Draw `count` more steps as audio, in a thread of its own: float32 blocks `(n,)` or `(n, 2)`, some empty."""
        for step in prefetch(self.steps(count), STEPS_PER_CALL, AHEAD):
            yield self.decoder.push(step) / self.gain

    def finish(self) -> np.ndarray:
        """Return the samples that were not finished yet; the last half window fades out."""
        return self.decoder.finish() / self.gain


class SongTake(Take):
    """A continuation as notes."""

    def __init__(
        self, predictor: Predictor, prompt: Song | None, codes: torch.Tensor | None, stream: Stream, until_end: bool
    ) -> None:
        super().__init__(predictor, stream, until_end)
        assert isinstance(predictor.featurizer, NotesFeaturizer)
        self.prompt, self.prompt_codes, self.featurizer = prompt, codes, predictor.featurizer

    def song(self, count: int, report: Callable[[int], object] = lambda made: None) -> Song:
        """Draw `count` more steps and return the unchanged prompt with them, or the new steps alone without a prompt.

        The tempo, the meters and the instrument of the prompt are kept where the steps define none of their own.
        `report` is called after each step with the number of steps drawn.
        """
        drawn = []
        for step in self.steps(count):
            drawn.append(step)
            report(self.made)
        if not drawn:
            return self.prompt or Song("", "", (), 0)
        new, decode = torch.stack(drawn), self.featurizer.decode
        codes = new[:0] if self.prompt_codes is None else self.prompt_codes
        known = decode(codes, self.prompt) if len(codes) else Song("", "", (), 0)
        ended = (decode(torch.cat([codes, new[:at]]), self.prompt) for at in self.ended_at)
        self.endings = [song.seconds - known.seconds for song in ended]  # steps may be of unequal length
        whole = decode(torch.cat([codes, new]), self.prompt)
        return whole if self.prompt is None else continued(self.prompt, known, whole)


def continued(prompt: Song, known: Song, whole: Song) -> Song:
    """Return the prompt with the notes and marks that `whole` has and `known` lacks.

    `known` is the prompt's stream, decoded alone, and `whole` the same stream with the continuation's steps. A note of
    the prompt that the continuation holds stays one note and becomes longer.
    """
    lengths: dict[tuple[int, int, int, bool], list[int]] = {}
    for note in known.notes:
        lengths.setdefault((note.onset, note.pitch, note.program, note.is_drum), []).append(note.length)
    new, held = [], {}
    for note in whole.notes:
        same = lengths.get((note.onset, note.pitch, note.program, note.is_drum))
        if not same:
            new.append(note)
        elif same.pop(0) != note.length and note.end > known.ticks:
            held[note.pitch, note.is_drum] = note.end
    notes = []
    for note in reversed(prompt.notes):  # of several notes of one pitch, the last is the held one
        end = held.pop((note.pitch, note.is_drum), None)
        notes.append(replace(note, length=end - note.onset) if end else note)
    return replace(
        prompt,
        notes=tuple(sorted([*notes, *prompt.in_parts(new)])),
        ticks=max(prompt.ticks, whole.ticks),
        tempos=(*prompt.tempos, *(mark for mark in whole.tempos if mark[0] > known.ticks)),
        meters=(*prompt.meters, *(mark for mark in whole.meters if mark[0] > known.ticks)),
        key="",
    )


def joined(take: SoundTake, prompt: Piece | None, frames: int, *, with_prompt: bool = True) -> Iterator[np.ndarray]:
    """Yield the blocks of prompt and continuation as one: `len(prompt) + frames * hop` samples, or the latter alone.

    All blocks have the channels of the take: `(n,)`, or `(n, 2)`. With 0 frames the blocks are the unchanged prompt. A
    take that ends with its piece gives fewer samples.
    """
    overlap = take.overlap_samples if frames else 0
    if with_prompt and prompt is not None:
        stop = len(prompt.samples) - overlap
        for start in range(0, stop, BLOCK_SAMPLES):
            yield with_channels(np.asarray(prompt.samples[start : min(start + BLOCK_SAMPLES, stop)]), take.channels)
        overlap = 0
    if frames:
        for block in take.samples(frames):
            yield block[overlap:]
            overlap -= min(overlap, len(block))
        yield take.finish()[overlap:]
