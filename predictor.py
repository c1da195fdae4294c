"""Predictor: load a model, prime it with a prompt, step, decode. No printing, no arguments.

    predictor = Predictor.load(Path("model.json"))
    take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
    audio = np.concatenate([*take.samples(500), take.finish()])     # of a model of sound
    song = take.song(500)                                            # of a model of notes

It needs the metadata file and the state file beside it, nothing else: no corpus, and not the device of the training.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import corpus
from continuo import checkpoint, metadata
from continuo.piece import Piece
from continuo.sampling import Sampling
from continuo.song import Song
from continuo.stream import StreamSpec
from featurizer import FEATURIZERS, Featurizer, NotesFeaturizer, StftFeaturizer
from model_definition import SequenceModel, build_model, check_fits

PRIME_STEPS = 4096  # steps of a prompt that are heard at once
LEAST_S = 2.0  # of a continuation: prompts often close with a cadence, and what is asked for is how the music goes on


class Predictor:
    """A trained model, ready to continue prompts.

    Attributes:
        section: the metadata that the state was trained with.
        step: training step of the state.
        weights_step: of the weights that are used: the average of now while held-out nats still fall, the best after.
    """

    def __init__(
        self, featurizer: Featurizer[Any], model: SequenceModel, device: torch.device, facts: dict[str, Any]
    ) -> None:
        self.featurizer, self.model, self.device = featurizer, model.to(device).eval(), device
        self.metadata = metadata.Metadata.model_validate(facts["metadata"])
        self.step: int = facts["progress"]["step"]
        now = checkpoint.predicting(facts["progress"]) == "average"
        self.weights_step: int = self.step if now else facts["progress"]["best_step"]

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
        saved = metadata.validated(facts["metadata"], {}, source=path.name)
        section = saved.representation
        featurizer = FEATURIZERS[section.kind](section, saved.corpus.sample_rate_hz)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path} is damaged (it holds values that are no numbers): restore a copy, or train anew")
        try:
            featurizer.load_state(checkpoint.under_prefix("featurizer", tensors))
            weights = checkpoint.under_prefix(checkpoint.predicting(facts["progress"]), tensors)
            check_fits(weights, saved.architecture, featurizer.spec)
            model = build_model(saved.architecture, featurizer.spec)
            model.load_weights(weights)
        except checkpoint.UNFIT as error:
            raise checkpoint.unfit(path, error) from None
        return cls(featurizer, model, device or torch.device("cpu"), facts)

    @cached_property
    def stepping(self) -> SequenceModel:
        """The model as takes draw steps with it."""
        return self.model.packed()

    @property
    def sample_rate_hz(self) -> int:
        return self.metadata.corpus.sample_rate_hz

    @property
    def steps_per_second(self) -> float:
        return self.featurizer.spec.steps_per_second

    @property
    def hears(self) -> str:
        """Sound or notes, as the featurizer does."""
        return self.featurizer.hears

    def prompt(self, path: Path, *, expressive: bool = False, ring_out: bool = False) -> Any:
        """A score, MIDI or audio file as a prompt: a `Piece`, rendered as the model's corpus was, or a `Song`.

        Raises:
            ValueError: it cannot be continued, with the reason.
        """
        if self.hears == "notes":
            return corpus.load_prompt_song(path)
        return corpus.load_prompt(path, self.metadata.corpus, expressive=expressive, ring_out=ring_out)

    def moved(self, prompt: Any) -> int:
        """How many notes of a prompt the model does not know, and hears an octave or more away."""
        return self.featurizer.foreign(prompt)

    def take(self, prompt: Any, *, seed: int = 0, how: Sampling | None = None, until_end: bool = False) -> Any:
        """A continuation of `prompt`, or a piece of its own where that is None; the same seed gives the same one.

        Where the model ends the piece, after two seconds at the earliest, another one begins, or, `until_end`, nothing
        more comes.

        Returns:
            A `SoundTake`, or, from a model of notes, a `SongTake`.
        """
        kind = SongTake if isinstance(self.featurizer, NotesFeaturizer) else SoundTake
        return kind(self, prompt, seed, how or Sampling(), until_end)


class Take:
    """One continuation while it is made: the steps that a model draws.

    Attributes:
        made: how many.
        endings: seconds after the prompt at which the model ended a piece.

    Raises:
        ValueError: the prompt is shorter than a step.
    """

    def __init__(self, predictor: Predictor, prompt: Any, seed: int, how: Sampling, until_end: bool) -> None:
        self.model, self.featurizer, self.prompt = predictor.stepping, predictor.featurizer, prompt
        self.how, self.until_end = how, until_end
        self.steps_per_second, self.made = predictor.steps_per_second, 0
        self.least = math.ceil(LEAST_S * predictor.steps_per_second)
        self.endings: list[float] = []
        self.ended_at: list[int] = []  # the same in steps
        self.generator = torch.Generator(predictor.device).manual_seed(seed)
        self.heard = None if prompt is None else self.featurizer.encode_prompt(prompt)
        self.grammar = Grammar(self.featurizer.spec, predictor.device)
        self.context, self.state = self._prime(predictor.device)

    @torch.inference_mode()
    def _prime(self, device: torch.device) -> tuple[torch.Tensor, Any]:
        """Hear the prompt; gives the context after its last step."""
        state = self.model.initial_state(1)
        if self.heard is None:
            return self.model.opening(1), state
        for part in self.heard.to(device).split(PRIME_STEPS):
            context, state = self.model(part[None], state)
        return context[:, -1], state

    def steps(self, count: int) -> Iterator[torch.Tensor]:
        """Draw `count` more steps, `(L,)` or `(F,)` each, on the CPU; fewer where the piece ends, `until_end`."""
        for _ in range(count):
            with torch.inference_mode():
                ends = bool(self.model.ends(self.context, generator=self.generator, how=self.how))
                if ends and self.made >= self.least:
                    self.endings.append(self.made / self.steps_per_second)
                    self.ended_at.append(self.made)
                    if self.until_end:
                        return
                    self.context, self.state = self.model.opening(1), self.model.initial_state(1)
                    self.grammar.begin()
                allowed = self.grammar.allowed()
                x = self.model.sample(self.context, generator=self.generator, how=self.how, allowed=allowed)
                self.context, self.state = self.model.step(x, self.state)
                self.grammar.heard(x)
            self.made += 1
            yield x[0].cpu()


class Grammar:
    """Which codes may come next, where a stream says so. What comes after a prompt begins as a piece does."""

    def __init__(self, spec: StreamSpec, device: torch.device) -> None:
        self.follows = None if spec.follows is None else spec.follows.to(device)
        self.opens = None if spec.opens is None else spec.opens[None].to(device)
        self.begin()

    def begin(self) -> None:
        """A piece begins."""
        self.next = self.opens

    def heard(self, x: torch.Tensor) -> None:
        """A step `(1, L)` was heard or drawn."""
        if self.follows is not None:
            self.next = self.follows[x[:, 0]]

    def allowed(self) -> torch.Tensor | None:
        """Codes of the first level, `(1, V)` bool; None: any."""
        return self.next


class SoundTake(Take):
    """A continuation as sound, ready as far as its steps are drawn.

    Samples come at the loudness of the prompt. They begin `overlap_samples` before the prompt's end, in whose place
    they stand: prompt and continuation are overlap-added like any two frames. What comes out does not depend on how
    many steps are asked for at once.
    """

    def __init__(self, predictor: Predictor, prompt: Piece | None, seed: int, how: Sampling, until_end: bool) -> None:
        super().__init__(predictor, prompt, seed, how, until_end)
        assert isinstance(predictor.featurizer, StftFeaturizer)
        self.decoder = predictor.featurizer.decoder(prompt)
        self.overlap_samples = self.decoder.overlap_samples
        self.gain = np.float32(1.0 if prompt is None else prompt.gain)

    def samples(self, count: int) -> Iterator[np.ndarray]:
        """Draw `count` more steps as audio: the samples that became final, float32, some blocks possibly empty."""
        for step in self.steps(count):
            yield self.decoder.push(step) / self.gain

    def finish(self) -> np.ndarray:
        """The samples that were still open; the last half window fades out."""
        return self.decoder.finish() / self.gain


class SongTake(Take):
    """A continuation as notes."""

    def song(self, count: int) -> Song:
        """The prompt as it is and `count` more steps after it, or the new steps alone where nothing was prompted.

        The tempo, the meters and the instrument of the prompt are kept, where the steps hold none of their own.
        """
        assert isinstance(self.featurizer, NotesFeaturizer)
        drawn = list(self.steps(count))
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
    for tone in known.tones:
        lengths.setdefault((tone.onset, tone.pitch, tone.program, tone.is_drum), []).append(tone.length)
    new, held = [], {}
    for tone in whole.tones:
        same = lengths.get((tone.onset, tone.pitch, tone.program, tone.is_drum))
        if not same:
            new.append(tone)
        elif same.pop(0) != tone.length and tone.end > known.ticks:
            held[tone.pitch, tone.is_drum] = tone.end
    tones = []
    for tone in reversed(prompt.tones):  # the last stroke of a pitch is the one that is held
        end = held.pop((tone.pitch, tone.is_drum), None)
        tones.append(replace(tone, length=end - tone.onset) if end else tone)
    return replace(
        prompt,
        tones=tuple(sorted([*tones, *new])),
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
