"""Predictor: load a model, prime it with a prompt, step, decode. No printing, no arguments.

    predictor = Predictor.load(Path("model.json"))
    take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
    audio = np.concatenate([*take.samples(500), take.finish()])     # of a model of sound
    song = take.song(500)                                            # of a model of notes

It needs the metadata file and the state file beside it, nothing else: no corpus, and not the device of the training.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import corpus
from continuo.audio.piece import Piece
from continuo.model import checkpoint, metadata
from continuo.model.sampling import Sampling
from continuo.symbolic.song import Song
from continuo.system.workers import prefetch
from featurizer import FEATURIZERS, Featurizer, NotesFeaturizer, StftFeaturizer
from generation import AT_ONCE, Lane, StreamBatch, single_stream
from model_definition import LevelHead, SequenceModel, build_model, check_fits
from onnx_step import Steps, flat_state, step_graph

Arrays = dict[str, np.ndarray]
PRIME_STEPS = 4096  # steps of a prompt that are heard at once
AHEAD = 4  # times `AT_ONCE` steps that are drawn while those before them are decoded
MIN_S = 2.0  # of a continuation: prompts often close with a cadence, and what is asked for is how the music goes on


class Predictor:
    """A trained model, ready to continue prompts.

    Attributes:
        section: the metadata that the state was trained with.
        sampling: how steps are drawn where nothing else is asked for.
        step: training step of the state.
        weights_step: of the weights that are used: the average of now while held-out nats still fall, the best after.
    """

    def __init__(
        self, featurizer: Featurizer[Any], model: SequenceModel, device: torch.device, facts: checkpoint.Facts
    ) -> None:
        self.featurizer, self.model, self.device = featurizer, model.to(device).eval(), device
        self.facts, self.metadata = facts, metadata.Metadata.model_validate(facts["metadata"])
        self.sampling = Sampling(**self.metadata.sampling.model_dump())
        progress = facts["progress"]
        self.step = progress.step
        now = checkpoint.weights_prefix(progress) == "average" or progress.best_step is None
        self.weights_step = self.step if now else progress.best_step

    @classmethod
    def load(cls, meta_path: Path, device: torch.device | None = None) -> "Predictor":
        """The model that a metadata file describes, from the state file that it names.

        Raises:
            ValueError: either file is missing, damaged, or they do not belong together.
        """
        meta = metadata.load(meta_path)
        path = metadata.state_path(meta, meta_path)
        if not path.exists():
            first = f"train first (python train.py --meta {meta_path})"
            raise ValueError(f"there is no state {path} yet: {first}, the first save comes within a minute")
        tensors, facts = checkpoint.load_model(path, "featurizer.", "best.", "average.")
        metadata.check_same_model(meta, facts["metadata"], path)
        metadata.validated(facts["metadata"], {}, source=path.name)
        fitted = checkpoint.under_prefix("featurizer", tensors)
        weights = checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors)
        try:
            predictor = cls.of(facts, fitted, weights, device or torch.device("cpu"))
        except checkpoint.STATE_MISMATCH_ERRORS as error:
            raise checkpoint.mismatch_error(path, error) from None
        predictor.sampling = Sampling(**meta.sampling.model_dump())
        return predictor

    @classmethod
    def of(
        cls, facts: checkpoint.Facts, fitted: checkpoint.Tensors, weights: checkpoint.Tensors, device: torch.device
    ) -> "Predictor":
        """The model that a state's facts describe, from the featurizer's tensors and its own.

        Raises:
            Exception: of `checkpoint.STATE_MISMATCH_ERRORS`, where they are not what the facts say.
        """
        saved = metadata.Metadata.model_validate(facts["metadata"])
        featurizer = FEATURIZERS[saved.representation.kind](saved.representation, saved.corpus.sample_rate_hz)
        featurizer.load_state(fitted)
        check_fits(weights, saved.architecture, featurizer.spec)
        model = build_model(saved.architecture, featurizer.spec)
        model.load_weights(weights)
        return cls(featurizer, model, device, facts)

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: what it is made of, as arrays; the graph of the steps they make themselves."""
        parts = self.featurizer.state(), self.model.state_dict()
        arrays = [{name: tensor.cpu().numpy() for name, tensor in part.items()} for part in parts]
        return _remade, (self.facts, *arrays, self.device.type, self.sampling)

    @cached_property
    def steps(self) -> Steps | None:
        """The model's step as one call; None where it has none, and the model itself steps."""
        one_call = self.device.type == "cpu" and self.model.steps_in_one_call
        return Steps(step_graph(self.model)) if one_call else None

    @property
    def sample_rate_hz(self) -> int:
        return self.metadata.corpus.sample_rate_hz

    @property
    def steps_per_second(self) -> float:
        return self.featurizer.spec.steps_per_second

    @property
    def modality(self) -> str:
        """Sound or notes, as the featurizer does."""
        return self.featurizer.modality

    def prompt(self, path: Path, *, expressive: bool = False, ring_out: bool = False) -> Any:
        """A score, MIDI or audio file as a prompt: a `Piece`, rendered as the model's corpus was, or a `Song`.

        Raises:
            ValueError: it cannot be continued, with the reason.
        """
        if self.modality == "notes":
            return corpus.load_prompt_song(path)
        return corpus.load_prompt(path, self.metadata.corpus, ring_out=ring_out)

    def out_of_range(self, prompt: Any) -> int:
        """How many notes of a prompt the model does not know, and hears an octave or more away."""
        return self.featurizer.out_of_range(prompt)

    def take(self, prompt: Any, *, seed: int = 0, how: Sampling | None = None, until_end: bool = False) -> Any:
        """A continuation of `prompt`, or a piece of its own where that is None; the same seed gives the same one.

        Where the model ends the piece, after two seconds at the earliest, another one begins, or, `until_end`, nothing
        more comes.

        Returns:
            A `SoundTake`, or, from a model of notes, a `SongTake`.

        Raises:
            ValueError: the prompt is shorter than a step.
        """
        return self.takes(prompt, [seed], how=how, until_end=until_end)[0]

    def takes(
        self, prompt: Any, seeds: Sequence[int], *, how: Sampling | None = None, until_end: bool = False
    ) -> list[Any]:
        """Takes of one prompt, drawn side by side; each is the one that `take` gives for its seed."""
        how = how or self.sampling
        heard = None if prompt is None else self.featurizer.encode_prompt(prompt)
        kind = SongTake if isinstance(self.featurizer, NotesFeaturizer) else SoundTake
        return [kind(self, prompt, heard, lane, until_end) for lane in self._lanes(heard, seeds, how)]

    def _lanes(self, heard: torch.Tensor | None, seeds: Sequence[int], how: Sampling) -> list[Lane]:
        context, state = self._primed(heard)
        least = math.ceil(MIN_S * self.steps_per_second)
        if self.steps is None or how.top_p < 1:
            return [single_stream(self.model, context, state, seed=seed, how=how, least=least) for seed in seeds]
        together = StreamBatch(self.steps, flat_state(context, state), seeds, self.temperatures(how), least)
        return [together.lane(number) for number in range(len(seeds))]

    def temperatures(self, how: Sampling) -> list[float]:
        """Of each level of a step; none where steps have no levels."""
        head = self.model.head
        return [head.temperature(how, level) for level in range(head.levels)] if isinstance(head, LevelHead) else []

    def opening(self) -> np.ndarray:
        """The `state` of the step's graph before a piece begins, `(1, S)`."""
        return flat_state(*self._primed(None))

    @torch.inference_mode()
    def _primed(self, heard: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """The context `(1, W)` after a prompt's last step, or of a piece's first one, and the state."""
        context, state = self.model.opening(1), self.model.initial_state(1)
        if heard is not None:
            for part in heard.to(self.device).split(PRIME_STEPS):
                contexts, state = self.model(part[None], state)
                context = contexts[:, -1]
        return context, state


def _remade(facts: checkpoint.Facts, fitted: Arrays, weights: Arrays, device: str, sampling: Sampling) -> Predictor:
    as_tensors = lambda arrays: {name: torch.from_numpy(array) for name, array in arrays.items()}  # noqa: E731
    predictor = Predictor.of(facts, as_tensors(fitted), as_tensors(weights), torch.device(device))
    predictor.sampling = sampling
    return predictor


class Take:
    """One continuation while it is made: the steps that a model draws.

    Attributes:
        made: how many.
        endings: seconds after the prompt at which the model ended a piece.
    """

    def __init__(
        self, predictor: Predictor, prompt: Any, heard: torch.Tensor | None, lane: Lane, until_end: bool
    ) -> None:
        self.featurizer, self.prompt, self.heard, self.lane = predictor.featurizer, prompt, heard, lane
        self.steps_per_second, self.until_end, self.made = predictor.steps_per_second, until_end, 0
        self.endings: list[float] = []
        self.ended_at: list[int] = []  # the same in steps

    def steps(self, count: int) -> Iterator[torch.Tensor]:
        """Draw `count` more steps, `(L,)` or `(F,)` each, on the CPU; fewer where the piece ends, `until_end`."""
        for step, ended in islice(self.lane, count):
            if ended:
                self.endings.append(self.made / self.steps_per_second)
                self.ended_at.append(self.made)
                if self.until_end:
                    return
            self.made += 1
            yield step


class SoundTake(Take):
    """A continuation as sound, ready as far as its steps are drawn.

    Samples come at the loudness of the prompt. They begin `overlap_samples` before the prompt's end, in whose place
    they stand: prompt and continuation are overlap-added like any two frames. What comes out does not depend on how
    many steps are asked for at once.
    """

    def __init__(
        self, predictor: Predictor, prompt: Piece | None, heard: torch.Tensor | None, lane: Lane, until_end: bool
    ) -> None:
        super().__init__(predictor, prompt, heard, lane, until_end)
        assert isinstance(predictor.featurizer, StftFeaturizer)
        self.decoder = predictor.featurizer.decoder(prompt)
        self.overlap_samples = self.decoder.overlap_samples
        self.gain = np.float32(1.0 if prompt is None else prompt.gain)

    def samples(self, count: int) -> Iterator[np.ndarray]:
        """Draw `count` more steps as audio: the samples that became final, float32, some blocks possibly empty.

        The next steps are drawn while these are decoded.
        """
        for step in prefetch(self.steps(count), AT_ONCE, AHEAD):
            yield self.decoder.push(step) / self.gain

    def finish(self) -> np.ndarray:
        """The samples that were still open; the last half window fades out."""
        return self.decoder.finish() / self.gain


class SongTake(Take):
    """A continuation as notes."""

    def song(self, count: int, report: Callable[[int], object] = lambda made: None) -> Song:
        """The prompt as it is and `count` more steps after it, or the new steps alone where nothing was prompted.

        `report` is called after each step, with the number of those made.

        The tempo, the meters and the instrument of the prompt are kept, where the steps hold none of their own.
        """
        assert isinstance(self.featurizer, NotesFeaturizer)
        drawn = []
        for step in self.steps(count):
            drawn.append(step)
            report(self.made)
        if not drawn:
            return self.prompt or Song("", "", (), 0)
        known = drawn[0].new_zeros(0, len(drawn[0])) if self.heard is None else self.heard
        heard_s = self.featurizer.decode(known, self.prompt).seconds if len(known) else 0.0
        decoded = lambda steps: self.featurizer.decode(torch.cat([known, torch.stack(steps)]), self.prompt)  # noqa: E731
        self.endings = [decoded(drawn[:at]).seconds - heard_s for at in self.ended_at]  # steps are of unequal length
        whole = decoded(drawn)
        return (
            whole if self.prompt is None else continued(self.prompt, self.featurizer.decode(known, self.prompt), whole)
        )


def continued(prompt: Song, known: Song, whole: Song) -> Song:
    """The prompt with what `whole`, its stream decoded with more steps, has beyond `known`, the stream decoded alone.

    A note that the continuation holds on is one note.
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
    for note in reversed(prompt.notes):  # the last stroke of a pitch is the one that is held
        end = held.pop((note.pitch, note.is_drum), None)
        notes.append(replace(note, length=end - note.onset) if end else note)
    return replace(
        prompt,
        notes=tuple(sorted([*notes, *new])),
        ticks=max(prompt.ticks, whole.ticks),
        tempos=(*prompt.tempos, *(mark for mark in whole.tempos if mark[0] > known.ticks)),
        meters=(*prompt.meters, *(mark for mark in whole.meters if mark[0] > known.ticks)),
        key="",
    )


def joined(take: SoundTake, prompt: Piece | None, frames: int, *, with_prompt: bool = True) -> Iterator[np.ndarray]:
    """Prompt and continuation in one stream of blocks: `len(prompt) + frames * hop` samples, or the latter alone.

    With no frames the prompt comes out alone, as it is. A take that ends with its piece gives fewer.
    """
    overlap = take.overlap_samples if frames else 0
    if with_prompt and prompt is not None:
        for start in range(0, len(prompt.samples) - overlap, 1 << 18):
            yield np.asarray(prompt.samples[start : min(start + (1 << 18), len(prompt.samples) - overlap)])
        overlap = 0
    if frames:
        for block in take.samples(frames):
            yield block[overlap:]
            overlap -= min(overlap, len(block))
        yield take.finish()[overlap:]
