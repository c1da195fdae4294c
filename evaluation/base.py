"""Evaluate a trained model: everything that is measured in the same way for sound and for notes.

`sound.py` and `notes.py` add what differs. Every figure has a yardstick: the loss on held-out music stands next to that
on training music and that of two simple baselines; free runs, the long run and novelty stand next to real music.

A report (`report.json`) is a JSON object. None stands for a figure that could not be measured. Fractions are 0 ... 1. A
ratio is a figure of generated music over the same figure of real music.
"""

import json
import math
import os
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

import continuo
from continuo.audio.pictures import png
from continuo.audio.piece import Piece
from continuo.model import checkpoint, metadata, presets
from continuo.model.card import add_evaluation
from continuo.model.metadata import Json
from continuo.model.training_log import draw_curves
from continuo.symbolic.song import Song
from continuo.system.paths import command
from continuo.system.progress import Display
from continuo.system.text import pluralize
from corpus import Corpus
from dataset import AudioDataset, encode_cached, validation_batches
from evaluation import plots
from evaluation.baselines import Baselines
from evaluation.diagnosis import diagnose
from evaluation.excerpts import bounded, load_split
from predictor import Predictor

MAX_SCORED_STEPS = 16_384  # of held-out and of training music
FEW_EXCERPTS = 6  # with fewer, the figures of free runs are rough
WINDOW = 128  # steps scored at once
MAX_TRAINING_S = 2 * 3600.0  # seconds of training music for baselines and novelty
P = TypeVar("P", Piece, Song)
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The sizes and the seed of an evaluation; ValueError: a value is outside its range."""

    pieces: int  # number of excerpts to continue, 1 ... 256
    seconds: float  # length of each continuation, 2 ... 600; the metrics look at 2 s at a time, or at whole bars
    prompt_seconds: float  # length of each prompt, above 0, at most 600
    long_seconds: float  # length of the long run, 10 ... 3600, or 0 for none
    seed: int = 0  # of all sampling

    @property
    def times(self) -> dict[str, float]:
        """The lengths of an excerpt, as arguments."""
        return {"prompt_seconds": self.prompt_seconds, "seconds": self.seconds}

    def __post_init__(self) -> None:
        for flag, value, ok, words in (
            ("pieces", self.pieces, 1 <= self.pieces <= 256, "1 to 256"),
            ("seconds", self.seconds, 2 <= self.seconds <= 600, "2 to 600"),
            ("prompt-seconds", self.prompt_seconds, 0 < self.prompt_seconds <= 600, "above 0, at most 600"),
            ("long", self.long_seconds, self.long_seconds == 0 or 10 <= self.long_seconds <= 3600, "0, or 10 to 3600"),
            ("seed", self.seed, 0 <= self.seed < 2**62, "0 or more, and below 2 to the power of 62"),
        ):
            if not ok:
                raise ValueError(f"--{flag} {value} must be {words}")


class Evaluation(ABC, Generic[P]):
    """The evaluation of one model; ValueError: the corpus cannot be loaded, or too little of it was held out."""

    load: Callable[..., Corpus[P]]  # loads a corpus of this kind
    excerpts: Sequence[object]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        self.meta_path, self.predictor, self.plan, self.display = meta_path, predictor, plan, display
        self.pictures: dict[str, bytes] = {}
        self.started = time.monotonic()
        self.spec, self.rate = predictor.featurizer.spec, predictor.sample_rate_hz
        self.described = metadata.load(meta_path)
        self.train: list[P]
        self.held_out: list[P]
        self.train, self.held_out, self.notes = load_split(predictor, meta_path, self.load, display)
        self.training_sample: list[P] = bounded(self.train, MAX_TRAINING_S, plan.seed)

    def report(self, others: Sequence["AnyEvaluation"] = ()) -> Json:
        """Measure everything, keep what pictures need, and return JSON types; `others`: models for the same tables."""
        report: Json = {
            "model": self.model(),
            "plan": asdict(self.plan),
            "training": self.training(),
            "held_out": self.held_out_loss(),
            "free_runs": self.free_runs(),
            "long_run": self.long_run() if self.plan.long_seconds else None,
            "novelty": self.novelty(),
            "notes": self.notes,
        }
        if len(self.excerpts) < FEW_EXCERPTS:
            count, enough = pluralize(len(self.excerpts), "excerpt"), len(self.excerpts) == self.plan.pieces
            reason = "--pieces asks for no more" if enough else "the held-out music is too short for more"
            self.notes.append(f"only {count}: {reason}, so the figures of free runs are rough")
        report["verdict"] = [finding._asdict() for finding in diagnose(report)]
        report["seconds_taken"] = round(time.monotonic() - self.started, 1)
        report["beside"] = [other.brief() for other in others]
        self.notes += [note for other in others for note in self._notes_on(other)]
        return report

    def brief(self) -> Json:
        """Measure what stands in the tables of another model: held-out loss and free runs."""
        return {"model": self.model(), "held_out": self.held_out_loss(), "free_runs": self.free_runs(ceilings=False)}

    def model(self) -> Json:
        """Describe the model and its corpus."""
        known = self.predictor.metadata
        return {
            "name": self.meta_path.stem,
            "version": continuo.__version__,
            "hears": self.predictor.modality,  # "sound" or "notes"
            "preset": next((name for name in presets.preset_names() if presets.matches_preset(known, name)), None),
            "hidden": known.architecture.hidden,
            "step": self.predictor.step,
            "weights_step": self.predictor.weights_step,
            "parameters": sum(p.numel() for p in self.predictor.model.parameters()),
            "steps_per_second": self.predictor.steps_per_second,
            "levels": self.spec.levels,
            "continuous": self.spec.continuous,
            "corpus": known.corpus.path,
            "training_pieces": len(self.train),
            "training_minutes": sum(piece.seconds for piece in self.train) / 60,
            "held_out_pieces": len(self.held_out),
            "held_out_minutes": sum(piece.seconds for piece in self.held_out) / 60,
        }

    def training(self) -> Json:
        """Describe the course of the training."""
        progress = self.predictor.facts["progress"]
        best, last = progress.best_nats, progress.history[-1][3] if progress.history else None
        return {
            "history": progress.history,  # step, seconds, training loss and held-out loss of each validation
            "minutes": progress.seconds / 60,
            "best_step": progress.best_step,
            "best_nats": best,
            "last_nats": last,
            "improving": len(progress.history) > 1 and checkpoint.weights_prefix(progress) == "average",
            # fraction by which the held-out loss rose again after its best
            "risen": last / best - 1 if last is not None and best and best > 0 else 0.0,
            "again": self._train_longer(progress),
        }

    def _train_longer(self, progress: checkpoint.Progress) -> str:
        """Return the command that trains twice as long: the same training goes on, if the state holds all it needs."""
        steps = self.predictor.metadata.training.steps is not None
        budget = f"--steps {2 * progress.step}" if steps else f"--minutes {max(1, round(progress.seconds / 30))}"
        state = metadata.state_path(self.described, self.meta_path)
        if checkpoint.load(state, "weights.")[0]:
            return f"{command('train')} --meta {shlex.quote(str(self.meta_path))} {budget}"
        section, given = self.described.corpus, {"path", "sample_rate_hz", "channels"}  # by --corpus and by --from
        flags = ["--meta", "longer.json", "--from", str(state), "--corpus", section.path]
        changed = section.model_dump(mode="json", exclude_defaults=True, exclude=given)
        for key, value in changed.items():
            flags += ["--set", f"corpus.{key}={json.dumps(value)}"]
        return f"{command('train')} {shlex.join(flags)} {budget}"

    def write_to_card(self, report: Json) -> None:
        """Add the figures to the model's card, if its folder can be written to."""
        state = metadata.state_path(self.described, self.meta_path)
        if os.access(state.parent, os.W_OK):
            add_evaluation(state, self.predictor.facts, report)

    def _notes_on(self, other: "AnyEvaluation") -> list[str]:
        """Return what a reader should know if another model stands in the same tables."""
        notes, path = [], other.predictor.metadata.corpus.path
        if path != self.predictor.metadata.corpus.path:
            notes.append(f"{other.meta_path.stem} was measured on held-out music of its own corpus, {path}")
        if (kind := other.predictor.modality) != self.predictor.modality:
            notes.append(f"{other.meta_path.stem} is a model of {kind}: models of sound also predict how notes sound, "
                         "so losses of sound and of notes do not compare")  # fmt: skip
        return notes

    def held_out_loss(self) -> Json:
        """Return the loss of model and baselines on held-out music, and that of the model on training music."""
        featurizer, known = self.predictor.featurizer, [] if self.spec.continuous else self.training_sample
        fingerprint = featurizer.fingerprint()
        streams = [encode_cached(piece, featurizer, fingerprint) for piece in self.tracked("encoding", known)]
        baselines = Baselines(self.spec, streams)
        held_out, seconds, steps = self._scored("scoring held-out music", self.held_out, baselines)
        train = bounded(self.train, seconds, self.plan.seed)
        training, _, training_steps = self._scored("scoring training music", train, baselines)
        measured = {"frames": steps, "seconds": seconds, "training_frames": training_steps}
        return {**measured, **held_out, "training": training["model"]}

    @torch.inference_mode()
    def _scored(self, name: str, pieces: list[P], baselines: Baselines) -> tuple[Json, float, int]:
        """Return the loss of model and baselines over the beginnings of pieces, and the seconds and steps of those."""
        model, device = self.predictor.model, self.predictor.device
        music = AudioDataset(pieces, self.predictor.featurizer, WINDOW)
        sums: dict[str, np.ndarray] = {}
        steps, first = np.zeros(len(music.pieces), np.int64), 0  # of each piece
        for group in self.tracked(name, validation_batches(music, MAX_SCORED_STEPS)):
            rows = slice(first, first + len(group[0].inputs))
            first, state = rows.stop, model.initial_state(len(group[0].inputs))
            for batch in group:
                there = batch.to(device)
                nats, state = model.nll(there.inputs, there.targets, state)
                codes = batch.mask & ~batch.ends  # without the ends of pieces, which baselines do not predict
                for key, value in {"model": nats.cpu(), **baselines.nll(batch.inputs, batch.targets)}.items():
                    sums[key] = sums.get(key, np.zeros(1)) + value[codes].double().sum(0).numpy()
                steps[rows] += codes.sum(1).numpy()
        if not steps.any():
            raise ValueError("the held-out music is too short to be scored: hold out more music, or longer pieces")
        seconds, beats = self.lengths(music, steps)
        losses = {key: _loss(nats, int(steps.sum()), seconds, beats) for key, nats in sums.items()}
        return losses, seconds, int(steps.sum())

    def tracked(self, name: str, items: Sequence[T]) -> Iterator[T]:
        """Yield items, and display how many of them are done."""
        task = self.display.task(name, len(items))
        for done, item in enumerate(items, start=1):
            yield item
            task.update(done)
        task.close()

    @abstractmethod
    def lengths(self, music: AudioDataset, steps: np.ndarray) -> tuple[float, float | None]:
        """Return the total seconds and beats of the first `steps[n]` steps of each piece n."""

    @abstractmethod
    def free_runs(self, *, ceilings: bool = True) -> Json:
        """Continue the excerpts and compare with real music; `ceilings` adds what a perfect model would reach."""

    @abstractmethod
    def long_run(self) -> Json:
        """Continue the first prompt for long."""

    @abstractmethod
    def novelty(self) -> Json | None:
        """Compare the output with the training music; None if there is too little of it."""

    @abstractmethod
    def sounds(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        """Return the first excerpts to listen to: names, and sounds by side as FLAC."""

    def draw(self, report: Json) -> dict[str, bytes]:
        """Return the pictures of a report, PNG by name, as far as there are figures for them."""
        pictures = dict(self.pictures)
        history = report["training"]["history"]
        if len(history) >= 2:
            pictures["curves"] = png(draw_curves(history, self.spec.steps_per_second))
        pictures["levels"] = plots.level_bars(report["held_out"])
        return pictures


def _loss(nats: np.ndarray, steps: int, seconds: float, beats: float | None) -> Json:
    """Return a loss by level, per step, per second and per beat (quarter note) from its sum by level `(L,)`."""
    bits = float(nats.sum()) / math.log(2)
    return {
        "levels": (nats / steps).tolist(),
        "nats_per_step": float(nats.sum()) / steps,
        "bits_per_second": bits / seconds,
        "bits_per_beat": bits / beats if beats else None,
    }


AnyEvaluation = Evaluation[Piece] | Evaluation[Song]
