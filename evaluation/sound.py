"""Evaluation: how good a trained model is, in plots. No printing, no arguments, no files; `evaluate.py` drives it.

`Evaluation` holds what is measured alike of every model, `SoundEvaluation` what is measured of those that make sound;
those that write notes have `songs_evaluation.py`. Every figure has a yardstick beside it: held-out nats beside those
of training music and of two models without time (`evaluation.baselines`), free runs beside the codec, the inversion and
other real music, the long run and the distances to training music beside the same of held-out music.
"""

import json
import math
import shlex
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import continuo
from continuo.audio.files import flac
from continuo.model import checkpoint, metadata
from continuo.model.training_log import draw_curves
from continuo.system.progress import Display
from dataset import AudioDataset, encoded, validation_batches
from evaluation import audio_metrics, long_run, novelty, plots
from evaluation.baselines import Baselines
from evaluation.diagnosis import judge, signs
from evaluation.excerpts import (
    MIN_ONSETS,
    Excerpt,
    Plan,
    bounded,
    corpora,
    elsewhere,
    excerpts,
    free_run,
    inverted,
    likeness,
    through_codec,
)
from predictor import Predictor

FRAMES = 16_384  # of held-out and of training music that are scored
FEW = 6  # excerpts, below which free runs are judged roughly
WINDOW = 128  # steps that are scored at once
MAX_TRAINING_S = 2 * 3600.0  # of training music that baselines and novelty look at


@dataclass(frozen=True)
class Scored:
    """Nats of model and baselines over the beginnings of pieces.

    Attributes:
        nats: sums by level, `(L,)` each.
        steps: how many were scored.
        seconds, beats: of music in them; None where the music has no beats.
    """

    nats: dict[str, np.ndarray]
    steps: int
    seconds: float
    beats: float | None

    def costs(self, name: str) -> dict[str, Any]:
        """By level and in all, in nats per step and in bits per second and per beat (quarter note) of music."""
        total = float(self.nats[name].sum())
        bits = total / math.log(2)
        return {
            "levels": (self.nats[name] / self.steps).tolist(),
            "nats_per_step": total / self.steps,
            "bits_per_second": bits / self.seconds,
            "bits_per_beat": bits / self.beats if self.beats else None,
        }


class Evaluation(ABC):
    """One model under test. `report` measures everything; the sounds and arrays that pictures need are kept.

    Raises:
        ValueError: the corpus cannot be loaded, or what was held out of it is too short.
    """

    excerpts: Sequence[Any]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        self.meta_path, self.predictor, self.plan, self.display = meta_path, predictor, plan, display
        self.pictures: dict[str, bytes] = {}
        self.started = time.monotonic()
        self.spec, self.rate = predictor.featurizer.spec, predictor.sample_rate_hz
        self.fingerprint = predictor.featurizer.fingerprint()
        self.state = metadata.state_path(metadata.load(meta_path), meta_path)
        self.progress = predictor.facts["progress"]
        self.train, self.held_out, self.notes = corpora(predictor, meta_path, display)
        self.sample = bounded(self.train, MAX_TRAINING_S, plan.seed)

    def report(self) -> dict[str, Any]:
        """Every figure by name, plain JSON types; None where one could not be measured."""
        model, held_out = self.model(), self.held_out_nats()
        runs = self.free_runs() | self.ceilings()
        long_run = self.long_run() if self.plan.long_seconds else None
        found: dict[str, Any] = {
            "model": model,
            "plan": asdict(self.plan),
            "training": self.training(),
            "held_out": held_out,
            "free_runs": runs,
            "long_run": long_run,
            "novelty": self.newness(),
            "notes": self.notes,
        }
        if len(self.excerpts) < FEW:
            enough = len(self.excerpts) == self.plan.pieces
            reason = "--pieces asks for no more" if enough else "held-out music is too short for more"
            count = f"{len(self.excerpts)} excerpt{'s' * (len(self.excerpts) != 1)}"
            self.notes.append(f"only {count}: {reason}, so figures of free runs are rough")
        found["verdict"] = [finding._asdict() for finding in judge(signs(found))]
        found["seconds_taken"] = round(time.monotonic() - self.started, 1)
        return found

    def brief(self) -> dict[str, Any]:
        """The figures that stand beside another model's: held-out nats and free runs."""
        return {"model": self.model(), "held_out": self.held_out_nats(), "free_runs": self.free_runs()}

    def model(self) -> dict[str, Any]:
        known = self.predictor.metadata
        presets = sorted(path.stem for path in metadata.PRESETS.glob("*.json"))
        return {
            "name": self.meta_path.stem,
            "version": continuo.__version__,
            "hears": self.predictor.modality,
            "preset": next((name for name in presets if metadata.matches_preset(known, name)), None),
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

    def training(self) -> dict[str, Any]:
        """How training went: `history` holds steps, seconds, training nats and held-out nats of each validation.

        `again` is the command that trains twice as long.
        """
        p = self.progress
        last = p.history[-1][3] if p.history else None
        risen = last / p.best_nats - 1 if last is not None and p.best_nats and p.best_nats > 0 else 0.0
        steps = self.predictor.metadata.training.steps is not None
        budget = f"--steps {2 * p.step}" if steps else f"--minutes {max(1, round(p.seconds / 30))}"
        which = f"--meta {shlex.quote(str(self.meta_path))}"
        if not checkpoint.load(self.state, "weights.")[0]:  # a model to predict with, whose training is not there
            which = shlex.join(["--meta", "longer.json", "--from", str(self.state), *self._corpus_flags()])
        return {
            "history": p.history,
            "minutes": p.seconds / 60,
            "best_step": p.best_step,
            "best_nats": p.best_nats,
            "last_nats": last,
            "improving": len(p.history) > 1 and checkpoint.weights_prefix(p) == "average",
            "risen": risen,
            "again": f"train.py {which} {budget}",
        }

    def _corpus_flags(self) -> list[str]:
        """What makes a training that begins with this model hear the same corpus in the same way."""
        heard = metadata.load(self.meta_path).corpus
        changed = heard.model_dump(mode="json", exclude_defaults=True, exclude={"path", "sample_rate_hz"})
        values = [f"corpus.{key}={json.dumps(value)}" for key, value in changed.items()]
        return ["--corpus", heard.path, *(word for value in values for word in ("--set", value))]

    # --- held-out music ---------------------------------------------------------------------------------------------

    def held_out_nats(self) -> dict[str, Any]:
        """Nats per step and bits per second, by level and in all, of model and baselines; and on training music."""
        streams: list[np.ndarray] = []
        task = self.display.task("encoding", len(self.sample))
        for done, piece in enumerate([] if self.spec.continuous else self.sample, start=1):
            streams.append(encoded(piece, self.predictor.featurizer, self.fingerprint))
            task.update(done)
        task.close()
        baselines = Baselines(self.spec, streams)
        unseen = self._scored("scoring held-out music", self.held_out, baselines)
        known = self._scored("scoring training music", bounded(self.train, unseen.seconds, self.plan.seed), baselines)
        return {
            "frames": unseen.steps,
            "seconds": unseen.seconds,
            "training_frames": known.steps,
            **{name: unseen.costs(name) for name in unseen.nats},
            "training": known.costs("model"),
        }

    @torch.inference_mode()
    def _scored(self, name: str, pieces: Sequence[Any], baselines: Baselines) -> Scored:
        """What the beginnings of pieces cost model and baselines."""
        music = AudioDataset(pieces, self.predictor.featurizer, WINDOW)
        rows = validation_batches(music, FRAMES)
        sums: dict[str, np.ndarray | float] = {}
        scored = np.zeros(len(music.pieces), np.int64)  # steps of each piece
        task, done, first = self.display.task(name, sum(map(len, rows))), 0, 0
        for row in rows:
            lanes = slice(first, first := first + len(row[0].inputs))
            state = self.predictor.model.initial_state(len(row[0].inputs))
            for batch in row:
                there = batch.to(self.predictor.device)
                nats, state = self.predictor.model.nll(there.inputs, there.targets, state)
                heard = batch.mask & ~batch.ends  # that a piece ends is no code: the baselines do not know it
                for key, value in {"model": nats.cpu(), **baselines.nll(batch.inputs, batch.targets)}.items():
                    sums[key] = sums.get(key, 0.0) + value[heard].double().sum(0).numpy()
                scored[lanes] += heard.sum(1).numpy()
                done += 1
                task.update(done)
        task.close()
        if not scored.any():
            raise ValueError("what was held out is too short to be scored: hold more music out, or longer pieces")
        seconds, beats = self.lengths(music, scored)
        return Scored({key: np.asarray(value) for key, value in sums.items()}, int(scored.sum()), seconds, beats)

    @abstractmethod
    def lengths(self, music: AudioDataset, scored: np.ndarray) -> tuple[float, float | None]:
        """Seconds and beats of the first `scored[n]` steps of each piece, in all."""

    # --- what kinds of models differ in -----------------------------------------------------------------------------

    @abstractmethod
    def free_runs(self) -> dict[str, Any]:
        """How the model goes on from prompts, beside what the pieces really do."""

    def ceilings(self) -> dict[str, Any]:
        """What a perfect model would reach, as far as it can be less than real music."""
        return {}

    @abstractmethod
    def long_run(self) -> dict[str, Any]:
        """One long continuation of the first prompt."""

    @abstractmethod
    def newness(self) -> dict[str, Any] | None:
        """How near the output comes to training music."""

    def draw(self, report: dict[str, Any]) -> dict[str, bytes]:
        """The pictures of a report, PNG by name; those that nothing was measured for are left out."""
        pictures = dict(self.pictures)
        history = report["training"]["history"]
        if len(history) >= 2:
            with tempfile.TemporaryDirectory() as folder:
                picture = Path(folder) / "curves.png"
                draw_curves(history, picture, self.spec.steps_per_second)
                pictures["curves"] = picture.read_bytes()
        costs = report["held_out"]
        bars = {name: costs[name]["levels"] for name in ("unigram", "copy_last", "model")}
        pictures["levels"] = plots.level_bars(bars | {"model on training music": costs["training"]["levels"]})
        return pictures

    @abstractmethod
    def listen(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        """The first excerpts to listen to: names, and sounds by side as FLAC."""


class SoundEvaluation(Evaluation):
    """A model of sound under test."""

    excerpts: list[Excerpt]

    def __init__(self, meta_path: Path, predictor: Predictor, plan: Plan, display: Display) -> None:
        super().__init__(meta_path, predictor, plan, display)
        self.sounds: dict[str, list[np.ndarray]] = {}
        self.excerpts = excerpts(
            self.held_out, count=plan.pieces, prompt_seconds=plan.prompt_seconds, seconds=plan.seconds
        )

    def lengths(self, music: AudioDataset, scored: np.ndarray) -> tuple[float, float | None]:
        return float(scored.sum()) / self.spec.steps_per_second, None

    # --- excerpts ---------------------------------------------------------------------------------------------------

    def free_runs(self) -> dict[str, Any]:
        """Free runs, and other real music of the same pieces, beside what the pieces really do."""
        real = [excerpt.real for excerpt in self.excerpts]
        task = self.display.task("free runs", len(real))
        made = []
        for number, excerpt in enumerate(self.excerpts):
            made.append(free_run(self.predictor, excerpt, seed=self.plan.seed + number))
            task.update(number + 1)
        task.close()
        self.sounds |= {"real": real, "generated": made}
        pairs = elsewhere(self.excerpts)
        floor = likeness([a for a, _ in pairs], [b for _, b in pairs], self.rate) if len(pairs) > 1 else None
        facts = [audio_metrics.statistics(audio, self.rate) for audio in real]
        self.real = {name: float(np.mean([s[name] for s in facts])) for name in ("onsets_per_s", "silence", "flux")}
        return {
            "excerpts": len(real),
            "real": self.real,
            "generated": likeness(real, made, self.rate),
            "floor": floor,
        }

    def ceilings(self) -> dict[str, Any]:
        """What the codec and the search for phases cost by themselves."""
        task = self.display.task("codec and inversion", len(self.excerpts))
        codec, phases = [], []
        for done, excerpt in enumerate(self.excerpts, start=1):
            codec.append(through_codec(self.predictor, excerpt))
            phases.append(inverted(self.predictor.featurizer, excerpt))
            task.update(done)
        task.close()
        self.sounds["codec"] = codec
        found = [pair for pair in phases if pair]
        inversion: dict[str, Any] | None = None
        if len(found) == len(self.excerpts):
            inversion = likeness(self.sounds["real"], [audio for audio, _ in found], self.rate)
            inversion["spectral_convergence"] = float(np.mean([error for _, error in found]))
        return {"codec": likeness(self.sounds["real"], codec, self.rate), "inversion": inversion}

    # --- the long run -----------------------------------------------------------------------------------------------

    def long_run(self) -> dict[str, Any]:
        """One long continuation of the first prompt, at the models' loudness."""
        prompt, frames = self.excerpts[0].prompt, math.ceil(self.plan.long_seconds * self.spec.steps_per_second)
        task = self.display.task("long run", frames)
        take = self.predictor.take(prompt, seed=self.plan.seed)
        steps, blocks = [], []
        for step in take.steps(frames):
            steps.append(step.numpy())
            blocks.append(take.decoder.push(step))
            task.update(len(steps))
        task.close()
        audio = np.concatenate([*blocks, take.decoder.finish()])[take.overlap_samples :]
        self.sounds["long"] = [audio]
        real = self._held_out_streams()
        usual = float(np.median(np.concatenate([long_run.changes(stream, self.spec) for stream in real])))
        onsets = self.real["onsets_per_s"]
        long_piece = max(self.held_out, key=lambda piece: piece.seconds)
        whole = long_piece.read(0, min(len(long_piece.samples), len(audio)))
        levels = long_run.levels_db(audio, self.rate)
        heard = float(long_run.levels_db(prompt.read(0, len(prompt.samples)), self.rate, prompt.seconds)[0])
        self.pictures["level"] = plots.level_over_time(levels, heard)
        return {
            "seconds": len(audio) / self.rate,
            "level_drift_db": long_run.level_drift(audio, self.rate),
            "endings_s": take.endings,
            "silence": audio_metrics.statistics(audio, self.rate)["silence"],
            "onset_ratio_by_30_s": [
                n / onsets if onsets >= MIN_ONSETS else None for n in long_run.onsets_by_part(audio, self.rate)
            ],
            "loop_s": long_run.loop_length_s(audio, self.rate),
            "real_loop_s": long_run.loop_length_s(whole, self.rate),
            "still_s": self._still_s(np.stack(steps), usual),
            "real_still_s": max(self._still_s(stream, usual) for stream in real),
        }

    def _still_s(self, stream: np.ndarray, usual: float) -> float:
        return long_run.longest_still_s(long_run.changes(stream, self.spec), usual, self.spec.steps_per_second)

    def _held_out_streams(self) -> list[np.ndarray]:
        """Held-out music as long as the long run, or all there is, encoded."""
        pieces = bounded(self.held_out, self.plan.long_seconds, self.plan.seed)
        return [self.predictor.featurizer.encode(piece).numpy() for piece in pieces]

    # --- novelty ----------------------------------------------------------------------------------------------------

    def newness(self) -> dict[str, Any] | None:
        """How near the output comes to its training music, beside held-out music and the codec."""
        output = [*self.sounds["generated"], *self.sounds.get("long", [])]
        total = sum(len(audio) for audio in output) / self.rate
        held_out = [np.asarray(piece.samples) for piece in bounded(self.held_out, total, self.plan.seed)]
        sides = {"held-out": held_out, "generated": output, "through the codec": self.sounds["codec"]}
        training = [np.asarray(piece.samples) for piece in self.sample]
        seconds = sum(piece.seconds for piece in self.sample)
        if max(map(len, training)) < 2 * self.rate:
            return None
        found: dict[str, Any] = {"training_minutes": seconds / 60, "of_minutes": self.model()["training_minutes"]}
        for name in ("spectrum", "harmony"):
            task = self.display.task(f"looking for copies ({name})", len(training))
            index = novelty.Index(training, self.rate, chroma=name == "harmony", advance=task.update)
            task.close()
            distances = {side: index.nearest(audio) for side, audio in sides.items()}
            found[name] = novelty.against(distances, "held-out")
            if name == "spectrum":
                here, codec = (found[name][side]["p5"] for side in ("generated", "through_the_codec"))
                found["near_ratio"] = here / codec if here is not None and codec else None
                self.pictures["novelty"] = plots.distances(distances)
                found |= self._copies(index, held_out, output)
        return found

    def _copies(self, index: novelty.Index, held_out: list[np.ndarray], output: list[np.ndarray]) -> dict[str, Any]:
        """The longest stretches in a row; the control is training music through the codec: what a copy would give."""
        threshold = index.calibrate(held_out)
        p = self.plan
        try:
            known = excerpts(self.sample, count=2, prompt_seconds=p.prompt_seconds, seconds=p.seconds)
        except ValueError:
            known = []
        control = [index.copied(through_codec(self.predictor, excerpt), threshold) for excerpt in known]
        return {
            "threshold": threshold,
            "copied_s": max(index.copied(audio, threshold) for audio in output),
            "held_out_copied_s": max(index.copied(audio, threshold) for audio in held_out),
            "control_copied_s": float(np.mean(control)) if control else None,
            "control_of_s": p.seconds,
        }

    # --- pictures and sounds ----------------------------------------------------------------------------------------

    def draw(self, report: dict[str, Any]) -> dict[str, bytes]:
        sides = {name: self.sounds[name][0] for name in ("real", "codec", "generated")}
        return super().draw(report) | {"spectrograms": plots.spectrograms(sides, self.rate)}

    def listen(self, count: int = 3) -> list[tuple[str, dict[str, bytes]]]:
        """Real, codec and generated sound."""
        found = []
        for place, excerpt in enumerate(self.excerpts[:count]):
            sides = {side: self.sounds[side][place] for side in ("real", "codec", "generated")}
            found.append((excerpt.name, {side: flac(audio, self.rate) for side, audio in sides.items()}))
        return found
