"""Train a model step by step, and keep its state in one file.

The state file holds all that a run needs to continue exactly, down to the random states. On the CPU, a run that is
killed and resumed ends like one that was not, bit for bit, if the budget is given in steps.

Several processes train like one. Each computes its rows of every batch, and all follow the same order, random numbers
and sums; only dropout differs between them. The main process alone writes; the state does not depend on their number.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import continuo
from continuo.audio.piece import Piece
from continuo.engine.perceptron_trainer import PerceptronTrainer
from continuo.model import checkpoint
from continuo.model.advice import OVERFIT_VALIDATIONS, lever, memorizes
from continuo.model.card import write_card
from continuo.model.checkpoint import Facts, Progress
from continuo.model.metadata import Metadata, check_same_model
from continuo.symbolic.song import Song
from continuo.system.command_line import within_memory
from continuo.system.device import choose_precision, keep_freed_memory
from dataset import Batch, RowSampler, training_batches, validation_batches
from model_definition import LevelHead, SequenceModel, State, build_model
from preparation import Prepared, Start, corpus_fingerprint, prepare

FIRST_SAVE_S = 30.0  # seconds of training before the first save, at most
STRAY_STEPS, STRAY_SPREAD = 0.3, 30.0  # fraction of the steps at which a history strays; noise of squared distances
STRAY_NOT_LAST = (
    8  # steps at the end of a window at which it does not stray, so that the next window begins in the music
)
BETAS = (0.9, 0.98)
MIN_RATE = 0.01  # of the learning rate, at the end of the cosine


class Trainer:
    """Train a model on prepared music, and save its state; ValueError: the state or the memory is unsuitable."""

    def __init__(self, prepared: Prepared[Piece] | Prepared[Song]) -> None:
        self.prepared, self.metadata, self.state_path = prepared, prepared.metadata, prepared.state_path
        self.device = prepared.device if self.metadata.training.engine == "torch" else torch.device("cpu")
        self.display, self.group = prepared.display, prepared.group
        self.featurizer, self.train_set = prepared.featurizer, prepared.train_set
        self.stopping, self.saved_step, self.started_from = False, -1, ""
        self.progress = Progress(0, 0.0, [])
        self.best: checkpoint.Tensors = {}
        with self._advise_on_memory():
            self._build()
        if prepared.start:
            with prepared.start.mismatch_refused():
                self._restore(prepared.start)

    def _build(self) -> None:
        t = self.metadata.training
        rate, decay = t.learning_rate, t.weight_decay
        torch.manual_seed(t.seed)
        self.precision = self.group.broadcast(lambda: choose_precision(t.precision, self.device))
        self.model: SequenceModel = build_model(self.metadata.architecture, self.featurizer.spec).to(self.device)
        if (counts := self.train_set.counts()) is not None:
            self.model.init_bias_from_counts(counts.to(self.device))
        self.loss = self.group.wrap(LossModule(self.model))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        weights, fused = self.model.parameters(), self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(weights, lr=rate, betas=BETAS, weight_decay=decay, fused=fused)
        self.scratch = None
        if t.engine == "scratch":
            if self.group.size > 1:
                raise ValueError("training.engine scratch trains in one process: start one, or set the engine torch")
            self.scratch = PerceptronTrainer(self.model, learning_rate=rate, betas=BETAS, weight_decay=decay)
        self.sampler = RowSampler(self.train_set.windows, t.batch_size, t.seed, self.group.rows)
        self.row_states: State = self.model.initial_state(t.batch_size // self.group.size)
        self.held_out = validation_batches(self.prepared.held_out_set, t.validation_frames, self.group.rows)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, report: Callable[["Trainer"], None] = lambda trainer: None) -> None:
        """Train until the budget is used or `stop` is called; save at intervals and at the end.

        `report` is called after every step, and after a last validation that follows no step.
        ValueError: the loss or a weight is not finite, or a batch does not fit in memory; the last save is intact.
        """
        t, p = self.metadata.training, self.progress
        keep_freed_memory()
        batches = training_batches(self.train_set, self.sampler)
        before, started = p.seconds, time.monotonic()
        self.group.seconds(before)
        last_save, save_after = before, min(t.checkpoint_every_s, FIRST_SAVE_S)
        if self.saved_step < 0 and self.group.elastic:
            self.save()  # restarted processes continue from this state, not from one that was there before
        stopped = self.group.any_stopped(self.stopping)
        while not (stopped or self.fraction_done() >= 1):
            with self._advise_on_memory():
                begun = time.monotonic()
                self._train_step(next(batches))
                self._adapt(time.monotonic() - begun)
                p.seconds = self.group.seconds(before + time.monotonic() - started)
                if p.step % t.validate_every_steps == 0:
                    self._validate()
            if p.seconds - last_save >= save_after:
                self.save()
                last_save, save_after = p.seconds, t.checkpoint_every_s
            report(self)
            stopped = self.group.any_stopped(self.stopping)
        adapted = not stopped and self.group.broadcast(lambda: self._adapt(math.inf))
        if not stopped and not (p.history and p.history[-1][0] == p.step):
            self._validate()
            self.save()
            report(self)
        elif adapted or p.step != self.saved_step:
            self.save()

    def _adapt(self, seconds: float) -> bool:
        """Go on adapting the featurizer, if anything is left, for about so many seconds; return whether it was."""
        until, parts = time.monotonic() + seconds, 0
        while not self.stopping and time.monotonic() < until and next(self.prepared.adaptation, True) is None:
            parts += 1
        return parts > 0

    def stop(self) -> None:
        """Ask the loop to save and return after the current step."""
        self.stopping = True

    @property
    def budget_steps(self) -> int | None:
        """The number of steps in all; None if the budget is given in minutes."""
        t = self.metadata.training
        if t.steps is not None or t.epochs is None:
            return t.steps
        return math.ceil(t.epochs * len(self.train_set) / t.batch_size)

    def fraction_done(self) -> float:
        """Return the fraction of the budget that is used, 0 to 1 or more."""
        t, steps = self.metadata.training, self.budget_steps
        if steps is not None:
            return self.progress.step / steps
        assert t.minutes is not None
        return self.progress.seconds / (60 * t.minutes)

    def remaining_s(self, frames_per_second: float) -> float:
        """Return the seconds until the budget is used."""
        t, steps = self.metadata.training, self.budget_steps
        if steps is None:
            assert t.minutes is not None
            return max(0.0, 60 * t.minutes - self.progress.seconds)
        return (steps - self.progress.step) * t.batch_size * t.window / max(frames_per_second, 1e-9)

    def learning_rate(self) -> float:
        """Return the learning rate of this step: a linear warm-up by steps, then a cosine over the budget."""
        t = self.metadata.training
        warmup = min(1.0, (self.progress.step + 1) / max(1, t.warmup_steps))
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.fraction_done()))
        return t.learning_rate * warmup * (MIN_RATE + (1 - MIN_RATE) * cosine)

    def _train_step(self, batch: Batch) -> None:
        t, p = self.metadata.training, self.progress
        loss = self._torch_step(batch) if self.scratch is None else self._scratch_step(self.scratch, batch)
        p.step += 1
        p.train_nats = loss if p.train_nats is None else 0.98 * p.train_nats + 0.02 * loss
        decay = min(t.average_decay, (1 + p.step) / (10 + p.step))
        with torch.no_grad():  # otherwise the average keeps the history of all its steps
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _torch_step(self, batch: Batch) -> float:
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate()
        t, p = self.metadata.training, self.progress
        # every process draws the numbers of all rows
        levels = self.model.sample_n_quantizers(t.batch_size, batch.inputs.shape[1])
        batch = self._led_astray(batch.to(self.device))
        with self.group.fork_rng(t.seed + p.step):
            nll, count = self._nll(self.loss, batch, None if levels is None else levels[self.group.rows])
        self.optimizer.zero_grad(set_to_none=True)
        (nll / batch.mask.numel()).backward()  # the number of steps of all processes comes later, without waiting
        total, steps = self.group.all_reduce(nll, count)
        loss = self._check_finite(total / steps)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, self.group.size * batch.mask.numel() / steps)
        nn.utils.clip_grad_norm_(self.model.parameters(), t.clip_norm)
        self.optimizer.step()
        return loss

    def _led_astray(self, batch: Batch) -> Batch:
        """Let the history of some rows stray from the music, where codes can lead back to it."""
        decoder, head = self.model.change_decoder, self.model.head
        count = int(self.metadata.training.stray_rows * self.metadata.training.batch_size)
        if decoder is None or not isinstance(head, LevelHead) or not count:
            return batch
        vectors = head.embedding.vectors
        codes = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
        # every process draws the numbers of all rows
        shape = count, codes.shape[1], len(vectors), vectors.shape[1]
        noise = STRAY_SPREAD * torch.empty(shape, device=self.device).exponential_().log_()
        strays = torch.rand(shape[:2], device=self.device) < STRAY_STEPS
        strays[:, -STRAY_NOT_LAST:] = False
        noise *= strays[..., None, None]
        own = torch.arange(count)[self.group.rows]
        last = self.model.reset(self.row_states, batch.is_start)[-1]
        history, targets = decoder.led_astray(codes[: len(own)], last[: len(own)], vectors, noise[own])
        inputs, wanted = batch.inputs.clone(), batch.targets.clone()
        inputs[: len(own)], wanted[: len(own)] = history[:, :-1], targets[:, 1:]
        return batch._replace(inputs=inputs, targets=wanted)

    def _scratch_step(self, scratch: PerceptronTrainer, batch: Batch) -> float:
        (states,) = self.model.reset(self.row_states, batch.is_start)
        clip = self.metadata.training.clip_norm
        loss, moved = scratch.step(batch, states.numpy(), learning_rate=self.learning_rate(), clip=clip)
        self.row_states = (torch.from_numpy(moved),)
        return self._check_finite(loss)

    def _check_finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise self._divergence(f"the loss became {'NaN' if math.isnan(loss) else 'infinite'}")
        return loss

    def _divergence(self, what: str) -> ValueError:
        advice = f"lower training.learning_rate (now {self.metadata.training.learning_rate})"
        return ValueError(f"{what} at step {self.progress.step}: {advice}{self._last_save()}")

    def _advise_on_memory(self) -> AbstractContextManager[None]:
        t = self.metadata.training
        advice = f"lower training.batch_size (now {t.batch_size}) or training.window (now {t.window})"
        return within_memory(f"{advice}{self._last_save()}")

    def _last_save(self) -> str:
        return f"; the state of step {self.saved_step} is intact" if self.saved_step >= 0 else ""

    def _nll(self, loss: nn.Module, batch: Batch, n_quantizers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss (nats) summed over the batch and the number of steps that count; advance the row states."""
        batch = batch.to(self.device)
        states = self.model.reset(self.row_states, batch.is_start)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            nll, count, states = loss(batch, states, n_quantizers)
        self.row_states = tuple(tensor.detach().float() for tensor in states)
        return nll, count

    @torch.no_grad()
    def _held_out_nats(self) -> float:
        """Return the held-out loss of the average weights, in nats per step."""
        loss, training_states = LossModule(self.average), self.row_states
        total, count = 0.0, 0
        for run in self.held_out:
            self.row_states = self.average.initial_state(len(run[0].inputs))
            for batch in run:
                nll, steps = self._nll(loss, batch)
                total, count = total + nll.item(), count + int(steps.item())
        self.row_states = training_states
        total, all_steps = self.group.all_reduce(total, count)
        return total / max(all_steps, 1)

    def _validate(self) -> None:
        """Measure the held-out loss, and keep a copy of the average weights if it is the lowest so far."""
        p = self.progress
        p.validation_nats = self._held_out_nats()
        p.history.append([float(p.step), round(p.seconds, 3), p.train_nats or 0.0, p.validation_nats])
        if p.best_nats is None or p.validation_nats < p.best_nats:
            p.best_step, p.best_nats = p.step, p.validation_nats
            self.best = {name: tensor.cpu().clone() for name, tensor in self.average.state_dict().items()}
        if memorizes(p) and p.best_step == p.history[-1 - OVERFIT_VALIDATIONS][0]:
            rising = f"the held-out loss has been rising since step {p.best_step:,} ({p.best_nats:.2f} nats)"
            kept = f"The state of that step is kept for predictions: {lever(p)}"
            self.display.say(f"{rising}: the model now memorizes. {kept}")

    # --- the state --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state, whole or not at all; all processes must call this together."""
        row_states = [self.group.gather(tensor) for tensor in self.row_states]
        if self.group.is_main_process:
            self._write(row_states)
        self.saved_step = self.progress.step

    def _write(self, row_states: list[Tensor]) -> None:
        tensors = checkpoint.with_prefix("featurizer", self.featurizer.state())
        tensors |= checkpoint.with_prefix("weights", self.model.state_dict())
        tensors |= checkpoint.with_prefix("average", self.average.state_dict())
        tensors |= checkpoint.with_prefix("best", self.best)
        tensors |= checkpoint.with_prefix("sampler", self.sampler.state())
        tensors |= {f"lanes.{i}": tensor for i, tensor in enumerate(row_states)}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        moments = self.scratch.moments() if self.scratch else self.optimizer.state_dict()["state"]
        for index, values in moments.items():
            tensors |= checkpoint.with_prefix(f"optimizer.{index}", values)
        size = sum(p.numel() for p in self.model.parameters())
        facts: Facts = {
            "version": continuo.__version__,
            "metadata": self.metadata.to_json(),
            "progress": self.progress,
            "precision": "bfloat16" if self.precision == torch.bfloat16 else "float32",
            "pieces": corpus_fingerprint(self.prepared.train_pieces),
            "validation": [piece.id for piece in self.prepared.held_out_pieces],
            "amounts": self.prepared.amounts
            | {"parameters": size, "steps_per_second": self.model.spec.steps_per_second},
            "begun_with": self.started_from,
        }
        if self.prepared.soundfont:
            facts["soundfont"] = self.prepared.soundfont
        if not checkpoint.all_finite(tensors):
            raise self._divergence("a weight became NaN or infinite")
        if self.saved_step < 0 and self.state_path.exists():
            self._set_aside_other_model()
        checkpoint.save(self.state_path, {n: t.detach().cpu() for n, t in tensors.items()}, facts)
        write_card(self.state_path, facts, keep_evaluation=self.saved_step >= 0)

    def _set_aside_other_model(self) -> None:
        """Rename the state that is there if it belongs to another model, which a new training would overwrite."""
        try:
            check_same_model(self.metadata, checkpoint.read_facts(self.state_path)["metadata"], self.state_path)
        except (ValueError, KeyError):
            aside = self.state_path.with_suffix(".before.safetensors")
            self.state_path.replace(aside)
            self.display.say(f"{self.state_path} belongs to another model: it was renamed to {aside}", always=True)

    def _restore(self, start: Start) -> None:
        """Continue the training of a saved state, or start from the weights of a donor."""
        tensors, facts = start.tensors, start.facts
        if start.is_donor:
            self.started_from = f"{start.path.name} after {facts['progress'].step:,} steps"
            self.display.say(f"starting from {self.started_from}")
            for model in (self.model, self.average):
                model.load_weights(checkpoint.under_prefix(checkpoint.weights_prefix(facts["progress"]), tensors))
            if self.scratch:
                self.scratch.load({})
            return
        self._restore_progress(facts)
        self.model.load_state_dict(checkpoint.under_prefix("weights", tensors))
        self.average.load_state_dict(checkpoint.under_prefix("average", tensors))
        if self.progress.best_step is not None:
            self.best = checkpoint.under_prefix("best", tensors)
        self._restore_moments(tensors)
        if self.metadata.training.precision == "auto" and self.device.type == "cpu":
            self.precision = getattr(torch, facts["precision"])  # a new measurement must not change a resumed run
        row_states = [tensors[f"lanes.{i}"] for i in range(len(self.row_states))]
        if any(saved.shape[1:] != own.shape[1:] for saved, own in zip(row_states, self.row_states, strict=True)):
            raise ValueError("the state of the batch rows has another shape than this model's")
        same_corpus = facts["pieces"] == corpus_fingerprint(self.prepared.train_pieces)
        if same_corpus and len(row_states[0]) == self.metadata.training.batch_size:
            self.sampler.load_state(checkpoint.under_prefix("sampler", tensors))
            self.row_states = tuple(tensor[self.group.rows].to(self.device) for tensor in row_states)
        else:
            what = "the corpus or the batch size changed since the state was saved"
            self.display.say(f"{what}: every batch row starts with a new piece")
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def _restore_progress(self, facts: Facts) -> None:
        """Take over the progress; discard the best step if other pieces are held out, whose losses do not compare."""
        p = self.progress = facts["progress"]
        self.saved_step, self.started_from = p.step, facts.get("begun_with", "")
        if facts["validation"] != [piece.id for piece in self.prepared.held_out_pieces]:
            if p.history:
                self.display.say("other pieces are held out than before: the best weights are chosen again")
            p.history = []
            p.validation_nats = p.best_nats = p.best_step = None

    def _restore_moments(self, tensors: checkpoint.Tensors) -> None:
        moments = {}
        for index, parameter in enumerate(self.model.parameters()):
            if not (saved := checkpoint.under_prefix(f"optimizer.{index}", tensors)):
                continue
            if any(saved[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")) or saved["step"].dim():
                raise ValueError("a moment of the optimizer has another shape than its weights")
            moments[index] = saved
        if self.scratch:
            self.scratch.load(moments)
        else:
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


class LossModule(nn.Module):
    """Compute the loss of a model on a batch, as the module that a process group wraps."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, states: State, n_quantizers: Tensor | None) -> tuple[Tensor, Tensor, State]:
        """Return the loss (nats) summed over the batch, the number of steps that count, and the new row states."""
        nll, states = self.model.nll(batch.inputs, batch.targets, states, batch.ends, n_quantizers)
        first_steps = batch.inputs[batch.is_start, :1]
        opening = self.model.head.nll(self.model.bos_context(len(first_steps))[:, None], first_steps)
        return (nll.sum(-1) * batch.mask).sum() + opening.sum(), batch.mask.sum() + len(first_steps), states


def build_trainer(metadata: Metadata, state_path: Path, device: torch.device, **options: Any) -> Trainer:
    """Prepare a training and return its trainer; the arguments are those of `prepare`."""
    return Trainer(prepare(metadata, state_path, device, **options))
