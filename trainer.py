"""Trainer: a model from its metadata and a corpus, step by step, into one state file.

No printing and no arguments; `train.py` and the studio drive it. What a run needs to go on exactly is in the state
file: weights, their running average and the best average so far, the optimizer, the lanes, the sampler's position, the
random states, the fitted featurizer and the metadata. The schedule depends on the step (or the seconds trained), which
are in the file too, so a run that is killed and resumed ends like one that was not; bit for bit, on the CPU, where the
budget is given in steps.

A team of processes trains like one: each has its rows of every batch, and all know the whole order, the same random
numbers and the same sums. Only what `dropout` leaves out is drawn by each for itself. The leader alone writes, and what
it writes does not say how many they were.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

import continuo
import corpus
from continuo.engine.perceptron_trainer import PerceptronTrainer
from continuo.model import checkpoint
from continuo.model.card import card_path, write_card
from continuo.model.checkpoint import Facts, Progress
from continuo.model.metadata import Metadata, check_same_model
from continuo.model.stream import StreamSpec
from continuo.system import cache
from continuo.system.command_line import within_memory
from continuo.system.device import choose_precision, keep_freed_memory
from continuo.system.distributed import ProcessGroup
from continuo.system.files import human_size, remove_leftovers
from continuo.system.progress import Display
from continuo.system.text import pluralize
from dataset import AudioDataset, Batch, RowSampler, training_batches, validation_batches
from featurizer import FEATURIZERS, FIT_VERSION, Featurizer
from model_definition import SequenceModel, State, build_model, model_size

FIRST_SAVE_S = 30.0
SMALL_CORPUS_S = 3600.0  # what is less is memorised, unless it is heard in other keys too
ENOUGH_TO_FIT_S = 960.0  # of sound as it is; moved, it is another instrument
SOUND_KEYS = 2  # semitones up and down, where the metadata leaves it open
MAX_KEYS, ENOUGH_NOTES_S = 5, 16 * 3600.0  # the same of notes: as many as make so many seconds
Pieces = list[Any]  # of `Piece` or of `Song`, as the featurizer hears
MEMORISING = 3  # validations in a row, each worse than the best
BETAS = (0.9, 0.98)
COPIES = 6  # of the weights, in a training: themselves, gradients, two moments, average, best
MIN_RATE = 0.01  # of the learning rate, at the end of the cosine


class Trainer:
    """Trains what `metadata` describes into `state_path`; goes on where the file there stopped, unless `fresh`.

    A training that begins can begin with what another one learned, `start_from` its state file: its featurizer is
    fitted to the new corpus from where it was, and its best weights are trained on. `pieces` to train on and held out
    take the place of the corpus that the metadata names. `group`: who trains this model together.

    Raises:
        ValueError: the corpus is empty or too small, or a state belongs to another model.
    """

    def __init__(
        self,
        metadata: Metadata,
        state_path: Path,
        device: torch.device,
        *,
        fresh: bool = False,
        start_from: Path | None = None,
        pieces: tuple[Pieces, Pieces] | None = None,
        display: Display | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self.metadata, self.state_path = metadata, state_path
        self.group, self.fresh = group or ProcessGroup(), fresh
        self.group.check_divides("training.batch_size", metadata.training.batch_size)
        self.device = device if metadata.training.engine == "torch" else torch.device("cpu")
        self.display = display or Display(quiet=True)
        self.stopping, self.saved_step, self.begun_with = False, -1, ""
        if self.group.is_main_process:
            curves, table = state_path.with_suffix(".curves.png"), state_path.with_suffix(".runs") / "training.csv"
            for written in (state_path, card_path(state_path), curves, table):
                remove_leftovers(written)
        saved = None if fresh or not state_path.exists() else checkpoint.load_model(state_path)
        donor = (
            checkpoint.load_model(start_from, "featurizer.", "best.", "average.") if start_from and not saved else None
        )
        if start_from and saved:
            self.display.say(f"{state_path} is there already: going on from it, not from {start_from} (--fresh does)")
        if saved and not checkpoint.under_prefix("weights", saved[0]):
            raise ValueError(f"{state_path} holds a model to predict with, and no training to go on with: "
                             f"begin one with another --meta and --from {state_path}")  # fmt: skip
        for path, state in ((state_path, saved), (start_from, donor)):
            if path and state:
                check_same_model(metadata, state[1]["metadata"], path, refitted=state is donor)
        self._check_memory(None)
        torch.manual_seed(metadata.training.seed)
        section = metadata.representation
        self.featurizer: Featurizer[Any] = FEATURIZERS[section.kind](section, metadata.corpus.sample_rate_hz)
        with self.group.local_main_first():
            self.train_pieces, self.validation_pieces = self._in_other_keys(*(pieces or self._load_corpus()))
        self._check_same(saved and saved[1])
        fitted = self.group.broadcast(lambda: self._fitted(saved and saved[0], donor and donor[0]))
        try:
            self.featurizer.load_state(fitted)
        except checkpoint.STATE_MISMATCH_ERRORS as error:
            raise checkpoint.mismatch_error(state_path, error) from None
        with self.group.local_main_first():
            self.train_set = self._encode("encoding", self.train_pieces)
            self.validation_set = self._encode("encoding held-out pieces", self.validation_pieces)
        with self._batch_fits():
            self._build()
        try:
            if saved:
                self._restore(*saved)
            elif start_from and donor:
                self._begin_with(start_from.name, *donor)
        except checkpoint.STATE_MISMATCH_ERRORS as error:
            raise checkpoint.mismatch_error(state_path if saved else start_from or state_path, error) from None
        if fresh and self.group.is_main_process and state_path.exists():
            self._set_aside()

    def _check_memory(self, spec: StreamSpec | None) -> None:
        """Refuse, before anything is read or allocated, what this machine's memory cannot hold.

        Of the activations only what certainly is kept is counted.
        """
        if self.device.type == "cuda":  # has a memory of its own, and says itself when it is full
            return
        t, a = self.metadata.training, self.metadata.architecture
        weights, lane = model_size(a, spec)
        needed = 4 * (COPIES * weights + t.batch_size * (lane + t.window * (a.hidden + a.head_width)))
        if needed > (most := checkpoint.machine_memory_bytes()):
            raise ValueError(
                f"training this model takes {human_size(needed)} or more, and this machine has {human_size(most)}: "
                "lower architecture.hidden, architecture.layers, training.batch_size or training.window"
            )

    def _check_same(self, saved: Facts | None) -> None:
        """Processes may be on several machines, each with its own view of the files."""
        given = self.metadata.model_dump(include={"representation", "architecture", "training"})
        self.group.check_same("metadata", given)
        self.group.check_same("a corpus", fingerprint([*self.train_pieces, *self.validation_pieces]))
        self.group.check_same("a state", saved and saved["progress"])

    def _set_aside(self) -> None:
        """Rename a state that training anew would overwrite, where it is of another model than this one."""
        try:
            check_same_model(self.metadata, checkpoint.read_facts(self.state_path)["metadata"], self.state_path)
        except (ValueError, KeyError):
            aside = self.state_path.with_suffix(".before.safetensors")
            self.state_path.replace(aside)
            self.display.say(f"{self.state_path} is of another model: it is {aside} now", always=True)

    def _load_corpus(self) -> tuple[Pieces, Pieces]:
        section, seed = self.metadata.corpus, self.metadata.training.seed
        load = corpus.load if self.featurizer.modality == "sound" else corpus.load_songs
        loaded: corpus.Corpus[Any] = load(section, seed=seed, display=self.display)
        minutes, size = loaded.seconds / 60, human_size(cache.size_bytes())
        self.display.say(
            f"corpus: {pluralize(len(loaded.pieces), 'piece')}, {minutes:.1f} minutes, {loaded.left_out} skipped"
        )
        self.display.say(f"cache of decoded audio: {size} (python corpus.py --clear-cache empties it)")
        if len(loaded.pieces) == 1:
            self.display.say("one piece only: its last tenth is held out to tell learning from copying")
        return loaded.split(section.validation_share, seed)

    def _in_other_keys(self, train: Pieces, validation: Pieces) -> tuple[Pieces, Pieces]:
        self.heard = {
            "pieces": len(train),
            "seconds": sum(piece.seconds for piece in train),
            "held_out_pieces": len(validation),
            "held_out_seconds": sum(piece.seconds for piece in validation),
        }
        self.to_fit, most = train, self.metadata.corpus.transpose
        if most is None:
            seconds = sum(piece.seconds for piece in [*train, *validation])
            if self.featurizer.modality == "notes":  # moving notes costs little
                most = min(MAX_KEYS, int((ENOUGH_NOTES_S / seconds - 1) / 2)) if seconds < ENOUGH_NOTES_S else 0
            else:
                most = SOUND_KEYS if seconds < SMALL_CORPUS_S else 0
        if most:
            self.display.say(f"to learn more than the notes, pieces are also heard up to {most} semitones up and down")
        moved = [piece.transposed(k) for piece in train for k in range(-most, most + 1)]
        if self.featurizer.modality == "notes" or self.heard["seconds"] < ENOUGH_TO_FIT_S:
            self.to_fit = moved
        return moved, validation

    def _fitted(self, saved: checkpoint.Tensors | None, donor: checkpoint.Tensors | None) -> checkpoint.Tensors:
        """The state of the featurizer: saved, from the cache, or fitted now."""
        featurizer = self.featurizer
        if saved:
            return checkpoint.under_prefix("featurizer", saved)
        start = checkpoint.under_prefix("featurizer", donor) if donor else None
        origin = ""
        if start:
            featurizer.load_state(start)
            origin = featurizer.fingerprint()
        keys = sorted(piece.key for piece in self.to_fit)
        key = cache.key_of_values(
            "featurizer", FIT_VERSION, featurizer.layout(), self.metadata.training.seed, keys, origin
        )
        kept = cache.entry(key, ".safetensors")
        try:
            featurizer.load_state(checkpoint.load(kept)[0])
            return featurizer.state()
        except ValueError:
            pass  # it was never fitted on this corpus, or the entry is damaged
        started = time.monotonic()
        costs = featurizer.phase_costs(self.to_fit)
        task, done = self.display.task("fitting the featurizer", sum(costs)), accumulate(costs, initial=0.0)
        advance: Callable[[str], None] = lambda words: task.update(next(done, sum(costs)), words)  # noqa: E731
        featurizer.fit(self.to_fit, seed=self.metadata.training.seed, advance=advance, start=start)
        task.close()
        checkpoint.save(kept, featurizer.state(), {})
        self.display.say(f"featurizer fitted in {time.monotonic() - started:.1f} s")
        return featurizer.state()

    def _encode(self, name: str, pieces: Pieces) -> AudioDataset:
        task = self.display.task(name, len(pieces))
        dataset = AudioDataset(pieces, self.featurizer, self.metadata.training.window, lambda done: task.update(done))
        task.close()
        for piece, reason in dataset.skipped:
            self.display.say(f"skipped {piece}: {reason}")
        return dataset

    def _build(self) -> None:
        t = self.metadata.training
        self.progress = Progress(0, 0.0, [])
        self.precision = self.group.broadcast(lambda: choose_precision(t.precision, self.device))
        self._check_memory(self.featurizer.spec)
        self.model: SequenceModel = build_model(self.metadata.architecture, self.featurizer.spec).to(self.device)
        if (counts := self.train_set.counts()) is not None:
            self.model.init_bias_from_counts(counts.to(self.device))
        self.score = self.group.wrap(LossModule(self.model))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.best: checkpoint.Tensors = {}
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=t.learning_rate, betas=BETAS, weight_decay=t.weight_decay, fused=fused
        )
        self.scratch = None
        if t.engine == "scratch":
            if self.group.size > 1:
                raise ValueError("training.engine scratch trains in one process: start one, or set the engine torch")
            self.scratch = PerceptronTrainer(
                self.model, learning_rate=t.learning_rate, betas=BETAS, weight_decay=t.weight_decay
            )
        self.sampler = RowSampler(self.train_set.windows, t.batch_size, t.seed, self.group.rows)
        self.lanes: State = self.model.initial_state(t.batch_size // self.group.size)
        self.held_out = validation_batches(self.validation_set, t.validation_frames, self.group.rows)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, report: Callable[["Trainer"], None] = lambda trainer: None) -> None:
        """Train until the budget is used or `stop` is called; saves at intervals and at the end.

        Args:
            report: called after every step, and after a last validation that none of them saw.

        Raises:
            ValueError: the loss became NaN or infinite, or a batch does not fit in memory; the last good state is on
                disk.
        """
        t = self.metadata.training
        keep_freed_memory()
        batches = training_batches(self.train_set, self.sampler)
        before, started = self.progress.seconds, time.monotonic()
        self.group.seconds(before)
        last_save, save_after = before, min(t.checkpoint_every_s, FIRST_SAVE_S)
        if self.fresh and self.group.elastic:
            self.save()  # who is restarted goes on from here, not from what was there before
        while not ((leave := self.group.any_stopped(self.stopping)) or self.finished()):
            with self._batch_fits():
                self._train_step(next(batches))
                self.progress.seconds = self.group.seconds(before + time.monotonic() - started)
                if self.progress.step % t.validate_every_steps == 0:
                    self._validate()
            if self.progress.seconds - last_save >= save_after:
                self.save()
                last_save, save_after = self.progress.seconds, t.checkpoint_every_s
            report(self)
        p = self.progress
        unheard = not leave and not (p.history and p.history[-1][0] == p.step)
        if unheard:
            self._validate()
        if unheard or p.step != self.saved_step:
            self.save()
        if unheard:
            report(self)

    def stop(self) -> None:
        """Ask the loop to save and leave after the step that it is in."""
        self.stopping = True

    def finished(self) -> bool:
        """Whether the budget is used."""
        return self.share_done() >= 1

    @property
    def budget_steps(self) -> int | None:
        """Steps in all; None where the budget is given in minutes."""
        t = self.metadata.training
        if t.steps is None and t.epochs is not None:
            return math.ceil(t.epochs * len(self.train_set) / t.batch_size)
        return t.steps

    def share_done(self) -> float:
        """How much of the budget is used, 0 to 1 or more."""
        t, steps = self.metadata.training, self.budget_steps
        if steps is not None:
            return self.progress.step / steps
        assert t.minutes is not None
        return self.progress.seconds / (60 * t.minutes)

    def remaining_s(self, frames_per_second: float) -> float:
        """Seconds until the budget is used."""
        t, steps = self.metadata.training, self.budget_steps
        if steps is None:
            assert t.minutes is not None
            return max(0.0, 60 * t.minutes - self.progress.seconds)
        return (steps - self.progress.step) * t.batch_size * t.window / max(frames_per_second, 1e-9)

    def learning_rate(self) -> float:
        """Linear warm-up by steps, then a cosine over the budget."""
        t = self.metadata.training
        warm = min(1.0, (self.progress.step + 1) / max(1, t.warmup_steps))
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.share_done()))
        return t.learning_rate * warm * (MIN_RATE + (1 - MIN_RATE) * cosine)

    def _train_step(self, batch: Batch) -> None:
        t, p = self.metadata.training, self.progress
        value = self._torch_step(batch) if self.scratch is None else self._scratch_step(self.scratch, batch)
        p.step += 1
        p.train_nats = value if p.train_nats is None else 0.98 * p.train_nats + 0.02 * value
        decay = min(t.average_decay, (1 + p.step) / (10 + p.step))
        with torch.no_grad():  # otherwise the average keeps the history of all its steps
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _torch_step(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        t, p = self.metadata.training, self.progress
        # every process draws the numbers of all rows
        levels = self.model.sample_n_quantizers(t.batch_size, batch.inputs.shape[1])
        with self.group.fork_rng(t.seed + p.step):
            nats, count = self._nats(self.score, batch, None if levels is None else levels[self.group.rows])
        self.optimizer.zero_grad(set_to_none=True)
        (nats / batch.mask.numel()).backward()  # how many steps count in all need not be waited for
        total, steps = self.group.all_reduce(nats, count)
        value = self._checked(total / steps)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, self.group.size * batch.mask.numel() / steps)
        nn.utils.clip_grad_norm_(self.model.parameters(), t.clip_norm)
        self.optimizer.step()
        return value

    def _scratch_step(self, scratch: PerceptronTrainer, batch: Batch) -> float:
        (lanes,) = self.model.reset(self.lanes, batch.first)
        clip = self.metadata.training.clip_norm
        value, moved = scratch.step(batch, lanes.numpy(), learning_rate=self.learning_rate(), clip=clip)
        self.lanes = (torch.from_numpy(moved),)
        return self._checked(value)

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise self._diverged("the loss")
        return loss

    def _diverged(self, what: str) -> ValueError:
        return ValueError(
            f"{what} is not a number any more at step {self.progress.step}: "
            f"lower training.learning_rate (now {self.metadata.training.learning_rate}){self._kept()}"
        )

    def _batch_fits(self) -> AbstractContextManager[None]:
        t = self.metadata.training
        return within_memory(
            f"lower training.batch_size (now {t.batch_size}) or training.window (now {t.window}){self._kept()}"
        )

    def _kept(self) -> str:
        return f"; the state of step {self.saved_step} is intact" if self.saved_step >= 0 else ""

    def _nats(
        self, score: nn.Module, batch: Batch, n_quantizers: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats summed over the batch, and the number of steps that count; the lanes move on."""
        batch = batch.to(self.device)
        lanes = self.model.reset(self.lanes, batch.first)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            nats, count, lanes = score(batch, lanes, n_quantizers)
        self.lanes = tuple(tensor.detach().float() for tensor in lanes)
        return nats, count

    @torch.no_grad()
    def _validate(self) -> None:
        """Held-out nats of the average; the best average is kept."""
        training_lanes, total, count, score = self.lanes, 0.0, 0, LossModule(self.average)
        for run in self.held_out:
            self.lanes = self.average.initial_state(len(run[0].inputs))
            for batch in run:
                nats, steps = self._nats(score, batch)
                total, count = total + nats.item(), count + int(steps.item())
        self.lanes = training_lanes
        total, heard = self.group.all_reduce(total, count)
        p = self.progress
        p.validation_nats = total / max(heard, 1)
        p.history.append([p.step, round(p.seconds, 3), p.train_nats or 0.0, p.validation_nats])
        if p.best_nats is None or p.validation_nats < p.best_nats:
            p.best_step, p.best_nats = p.step, p.validation_nats
            self.best = {name: tensor.cpu().clone() for name, tensor in self.average.state_dict().items()}
        if p.history[-1 - MEMORISING : -MEMORISING] and p.history[-1 - MEMORISING][0] == p.best_step:
            self.display.say(
                f"held-out nats rise since step {p.best_step:,} ({p.best_nats:.2f}): from here on the model memorises. "
                "The state of that step is kept and predicts; more recordings would help, longer training not"
            )

    # --- the state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state, whole or not at all."""
        lanes = [self.group.gather(tensor) for tensor in self.lanes]
        if self.group.is_main_process:
            self._write(lanes)
        self.saved_step = self.progress.step

    def _write(self, lanes: list[torch.Tensor]) -> None:
        tensors = checkpoint.with_prefix("featurizer", self.featurizer.state())
        tensors |= checkpoint.with_prefix("weights", self.model.state_dict())
        tensors |= checkpoint.with_prefix("average", self.average.state_dict())
        tensors |= checkpoint.with_prefix("best", self.best)
        tensors |= checkpoint.with_prefix("sampler", self.sampler.state())
        tensors |= {f"lanes.{i}": tensor for i, tensor in enumerate(lanes)}
        tensors |= {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors |= {"random.cuda": torch.cuda.get_rng_state(self.device)}
        kept = self.scratch.moments() if self.scratch else self.optimizer.state_dict()["state"]
        for index, moments in kept.items():
            tensors |= checkpoint.with_prefix(f"optimizer.{index}", moments)
        facts: Facts = {
            "version": continuo.__version__,
            "metadata": self.metadata.to_json(),
            "progress": self.progress,
            "precision": "bfloat16" if self.precision == torch.bfloat16 else "float32",
            "pieces": fingerprint(self.train_pieces),
            "validation": [piece.id for piece in self.validation_pieces],
            "heard": self.heard
            | {
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "steps_per_second": self.featurizer.spec.steps_per_second,
            },
            "begun_with": self.begun_with,
        }
        if not checkpoint.all_finite(tensors):
            raise self._diverged("a weight")
        checkpoint.save(self.state_path, {n: t.detach().cpu() for n, t in tensors.items()}, facts)
        write_card(self.state_path, facts, keep_evaluation=self.saved_step >= 0)

    def _begin_with(self, name: str, tensors: checkpoint.Tensors, facts: Facts) -> None:
        """Take up what another training learned, as this one's first weights."""
        learned = checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors)
        self.begun_with = f"{name} after {facts['progress'].step:,} steps"
        self.display.say(f"beginning with {self.begun_with}")
        for model in (self.model, self.average):
            model.load_weights(learned)
        if self.scratch:
            self.scratch.load({})

    def _restore(self, tensors: checkpoint.Tensors, facts: Facts) -> None:
        weights = checkpoint.under_prefix("weights", tensors)
        self.model.load_state_dict(weights)
        self.average.load_state_dict(checkpoint.under_prefix("average", tensors))
        self.best = checkpoint.under_prefix("best", tensors)
        state = self.optimizer.state_dict()
        names = range(len(state["param_groups"][0]["params"]))
        moments = {index: checkpoint.under_prefix(f"optimizer.{index}", tensors) for index in names}
        moments = {index: kept for index, kept in moments.items() if kept}
        for parameter, kept in ((p, moments[i]) for i, p in enumerate(self.model.parameters()) if i in moments):
            if any(kept[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")) or kept["step"].dim():
                raise ValueError("a moment of the optimizer is of another shape than its weights")
        if self.scratch:
            self.scratch.load(moments)
        else:
            self.optimizer.load_state_dict(state | {"state": moments})
        self.progress = facts["progress"]
        if facts["validation"] != [piece.id for piece in self.validation_pieces]:
            self._forget_the_best()
        self.begun_with = facts.get("begun_with", "")
        self.saved_step = self.progress.step
        if self.metadata.training.precision == "auto" and self.device.type == "cpu":
            self.precision = getattr(torch, facts["precision"])  # a measurement must not change a resumed run
        lanes = [tensors[f"lanes.{i}"] for i in range(len(self.lanes))]
        if any(kept.shape[1:] != ours.shape[1:] for kept, ours in zip(lanes, self.lanes, strict=True)):
            raise ValueError("the lanes are of another shape than this model's state")
        if facts["pieces"] == fingerprint(self.train_pieces) and len(lanes[0]) == self.metadata.training.batch_size:
            self.sampler.load_state(checkpoint.under_prefix("sampler", tensors))
            self.lanes = tuple(tensor[self.group.rows].to(self.device) for tensor in lanes)
        else:
            before, now = facts["metadata"]["corpus"]["path"], self.metadata.corpus.path
            what = "the corpus or the batch size changed" if before == now else f"the corpus was {before}, it is {now}"
            self.display.say(f"{what} since the state was saved: the lanes begin anew")
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def _forget_the_best(self) -> None:
        """Held-out nats of other music than is held out now compare with nothing."""
        p = self.progress
        if p.history:
            self.display.say("other pieces are held out than before: which weights are best is found out anew")
        self.best, p.history = {}, []
        p.validation_nats = p.best_nats = p.best_step = None


class LossModule(nn.Module):
    """What a model makes of a batch, as the module that a team wraps."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Batch, lanes: State, n_quantizers: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, State]:
        """Nats summed over the batch, the number of steps that count, and the lanes after it."""
        nats, lanes = self.model.nll(batch.inputs, batch.targets, lanes, batch.ends, n_quantizers)
        begun = batch.inputs[batch.first, :1]
        opening = self.model.head.nll(self.model.bos_context(len(begun))[:, None], begun)
        return (nats.sum(-1) * batch.mask).sum() + opening.sum(), batch.mask.sum() + len(begun), lanes


def fingerprint(pieces: Pieces) -> str:
    """Changes when pieces come, go or change length."""
    text = repr([(piece.id, piece.extent) for piece in pieces])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
