"""Train a model on a folder of music, and save its state while training goes on.

    %(prog)s                                   the default model on the embedded chorales, 10 minutes
    %(prog)s --corpus ~/recordings --minutes 60
    %(prog)s --meta tunes.json --preset PRESET --corpus ~/midi --epochs 10        one of the presets named below

Stop it with Ctrl-C at any time; the same command continues where it stopped. While it runs, `predict.py`
continues a score with what has been learned so far.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from continuo.system.command_line import STOPPING, Parser, on_signals, run_main
from continuo.system.files import check_writable, locked, suggest_path
from continuo.system.paths import MODELS, command

if TYPE_CHECKING:
    import numpy as np

    from continuo.model.checkpoint import Facts
    from continuo.model.metadata import Json, Metadata
    from continuo.model.training_log import TrainingLog
    from continuo.system.distributed import ProcessGroup
    from trainer import Trainer

OPENMP_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}  # idle threads spin briefly, then free the core
REPORT_EVERY_S = 0.1
CONTINUE_EVERY_S = 180.0  # least time between two continuations for TensorBoard
CONTINUE_FRACTION = 0.02  # of the training time, at most, spent on continuations
CONTINUE_STEPS, CONTINUE_PROMPT_S = 250, 3.0  # length of a continuation and of its prompt


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("train", __doc__)
    add = parser.add_argument
    add("--meta", type=Path, default=Path("model.json"), help="metadata file; created if missing (default: model.json)")
    presets = sorted(path.stem for path in MODELS.glob("*.json"))
    preset_help = f"preset to create the metadata file from: {', '.join(presets)} (default: codec-lstm)"
    add("--preset", choices=presets, metavar="NAME", help=preset_help)
    add("--corpus", metavar="DIR", help="folder of recordings or scores, or music21:bach")
    font_help = "SoundFont (.sf2, .sf3) that renders the scores of the corpus (default: an installed one)"
    add("--soundfont", metavar="FILE", help=font_help)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="minutes to train in all, earlier runs included")
    budget.add_argument("--steps", type=int, help="steps to train in all, earlier runs included")
    budget.add_argument("--epochs", type=float, help="times to go through the corpus in all, earlier runs included")
    add("--device", default="auto", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu")
    add("--checkpoint-every", type=float, metavar="SECONDS", help="seconds between saves (default: 30)")
    add("--seed", type=int, help="seed of the split, the first weights and the order (default: 0)")
    from_help = "state (.safetensors) of another model to start from, to train it on this corpus"
    add("--from", dest="start_from", type=Path, metavar="STATE", help=from_help)
    add("--prepare-only", action="store_true", help="read and encode the corpus into the cache, and stop")
    add("--fresh", action="store_true", help="start a new training and overwrite the existing state")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, e.g. training.batch_size=16")
    add("--journal", type=Path, metavar="FILE", help="append progress to FILE as lines of JSON")
    add("--quiet", action="store_true", help="print no progress and no messages")
    add("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    for name, value in OPENMP_WAIT.items():  # before torch is loaded
        os.environ.setdefault(name, value)
    return run_main(lambda: _run(arguments), name="train")


def _run(arguments: argparse.Namespace) -> int:
    with _several_processes() as group:
        metadata, state_path = _metadata(arguments)
        message = f"{state_path} is being trained already: let that end, stop it, or choose another --meta"
        with locked(state_path, message) if group is None or group.is_main_process else contextlib.nullcontext():
            from continuo.system.distributed import ProcessGroup

            return _train_into(state_path, metadata, arguments, group or ProcessGroup())


def _several_processes() -> contextlib.AbstractContextManager["ProcessGroup | None"]:
    """Join the processes that torchrun started; give None to a process alone, which refuses bad input without torch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return contextlib.nullcontext()
    from continuo.system.distributed import ProcessGroup

    return ProcessGroup.from_environment()


def _train_into(state_path: Path, metadata: "Metadata", arguments: argparse.Namespace, group: "ProcessGroup") -> int:
    from continuo.system.device import choose
    from continuo.system.progress import Display
    from trainer import build_trainer

    device, reason = choose(arguments.device)
    fresh = arguments.fresh and not group.restarted
    quiet = arguments.quiet or not group.is_main_process
    stream = None if group.is_main_process else io.StringIO()
    with _journal(arguments, group) as journal, Display(quiet=quiet, stream=stream, journal=journal) as display:
        device, start_from = group.place(device), arguments.start_from
        try:
            trainer = build_trainer(
                metadata, state_path, device, fresh=fresh, start_from=start_from, display=display, group=group
            )
        except KeyboardInterrupt:
            display.say("stopped while preparing: what was read is kept in the cache, and no state was touched")
            raise
        if group.is_main_process:
            _save_metadata(metadata, arguments.meta, trainer)
        _describe(trainer, reason)
        if arguments.prepare_only:
            display.say(f"prepared: {command('train')} --meta {arguments.meta} trains on it")
            train_set, held_out = trainer.train_set, trainer.prepared.held_out_set
            results: dict[str, object] = {"pieces": len(train_set.pieces), "held_out_pieces": len(held_out.pieces)}
            results |= {"frames": sum(train_set.steps), "held_out_frames": sum(held_out.steps)}
        else:
            results = _train(trainer, arguments.meta, fresh=fresh)
        if arguments.json and group.is_main_process:
            print(json.dumps(results))
    return 0


def _train(trainer: "Trainer", meta: Path, *, fresh: bool) -> dict[str, object]:
    """Run the training; the main process reports it and returns the results."""
    from continuo.audio.pictures import save_figure
    from continuo.model.training_log import TrainingLog, draw_curves

    reporter = Reporter(trainer)
    with on_signals(STOPPING, lambda *_: trainer.stop()):
        if not trainer.group.is_main_process:
            trainer.run()
            return {}
        with TrainingLog(trainer.state_path, fresh=fresh) as log:
            continuations = ContinuationLogger(trainer, log)

            def report(trainer: "Trainer") -> None:
                reporter(trainer)
                continuations(trainer)
                log.write(trainer.progress.step, trainer.progress.train_nats, trainer.progress.history)

            trainer.run(report)
            picture = trainer.state_path.with_suffix(".curves.png")
            if len(trainer.progress.history) >= 2:
                save_figure(draw_curves(trainer.progress.history, trainer.model.spec.steps_per_second), picture)
            else:
                trainer.display.say(f"{picture} is drawn once there are two validations: train longer")
    _conclude(trainer, reporter, meta)
    return _results(trainer, reporter)


def _journal(arguments: argparse.Namespace, group: "ProcessGroup") -> contextlib.AbstractContextManager[TextIO | None]:
    if arguments.journal is None or not group.is_main_process:
        return contextlib.nullcontext()
    return open(arguments.journal, "a", encoding="utf-8")


# --- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(arguments: argparse.Namespace) -> "tuple[Metadata, Path]":
    """Return the metadata and the path of the state; ValueError: flags contradict each other or what is there."""
    from continuo.model import metadata as md
    from continuo.model import presets

    path: Path = arguments.meta
    if path.suffix != ".json":
        raise ValueError(f"--meta {path}: the name of a metadata file ends in .json")
    donor: Path | None = arguments.start_from
    overrides, state = _overrides(arguments), f"{path.stem}.safetensors"
    existing = path if path.exists() else path.with_name(state)
    continues = path.exists() or (existing.exists() and not (arguments.fresh or donor))
    if donor and arguments.preset:
        raise ValueError("--from takes the shape of the model from its state, so leave out --preset")
    if donor and donor.suffix == ".json":
        raise ValueError(f"--from {donor} is a metadata file: name its state, {donor.with_suffix('.safetensors')}")
    if path.exists():
        if arguments.fresh and md.is_retired(content := md.read_json(path)):
            metadata = presets.renewed(content, overrides, source=path.name, state=state)
        else:
            metadata = md.load(path, overrides)
    elif continues:  # the metadata file is lost; with a preset's, the model would be trained on the default corpus
        metadata = md.validated(_saved_metadata(existing), overrides | {"state": state}, source=state)
    elif donor:
        if not donor.is_file():
            raise ValueError(f"--from {donor}: there is no such state{suggest_path(donor)}; name a .safetensors file")
        metadata = presets.from_donor(_saved_metadata(donor, md.OTHER_START), overrides, state=state)
    else:
        metadata = presets.from_preset(arguments.preset or presets.DEFAULT_PRESET, overrides, state=state)
    if continues and arguments.preset and not presets.matches_preset(metadata, arguments.preset):
        raise ValueError(f"{existing} exists and is not of the preset {arguments.preset}: choose another --meta")
    if not path.exists():
        check_writable(path, force=False)
    state_path = md.state_path(metadata, path)
    _check_owner(state_path, path, metadata.state)
    check_writable(state_path, force=True)
    return metadata, state_path


def _overrides(arguments: argparse.Namespace) -> "Json":
    """Return the metadata keys that flags set; a budget replaces those that would otherwise come first."""
    from continuo.model.presets import parse_assignments

    flags = {
        "corpus.path": arguments.corpus,
        "corpus.soundfont": arguments.soundfont and str(Path(arguments.soundfont).absolute()),
        "training.minutes": arguments.minutes,
        "training.steps": arguments.steps,
        "training.epochs": arguments.epochs,
        "training.checkpoint_every_s": arguments.checkpoint_every,
        "training.seed": arguments.seed,
    }
    overrides = {key: value for key, value in flags.items() if value is not None}
    if arguments.minutes is not None or arguments.epochs is not None:
        overrides["training.steps"] = None
    if arguments.minutes is not None:
        overrides["training.epochs"] = None
    return overrides | parse_assignments(arguments.set)


def _saved_metadata(state_path: Path, remedy: str = "") -> "Json":
    """Return the metadata that a state was trained with; ValueError, with advice, if it is of an earlier version."""
    from continuo.model.checkpoint import read_facts
    from continuo.model.metadata import check_readable

    saved = dict(read_facts(state_path)["metadata"])
    check_readable(saved, state_path, remedy)
    return saved


def _check_owner(state_path: Path, meta: Path, state: str) -> None:
    """Check that the state does not belong to another metadata file, as it does if `meta` is a copy of that one."""
    owner = state_path.with_suffix(".json")
    if owner.exists() and os.path.realpath(owner) != os.path.realpath(meta):
        own = f'write "state": "{meta.stem}.safetensors" into it for a model of its own, or train --meta {owner}'
        raise ValueError(f"{meta} names the state {state}, which is that of {owner.name}: {own}")


def _save_metadata(metadata: "Metadata", path: Path, trainer: "Trainer") -> None:
    """Write a metadata file that is missing or retired; only now, so that an unusable corpus leaves no file behind."""
    from continuo.model.metadata import is_retired, load, read_json, save

    if not path.exists() or is_retired(read_json(path)):
        save(metadata, path)
        if trainer.saved_step >= 0:
            trainer.display.say(f"{path} was missing: it was written again from {trainer.state_path}")
    elif (other := load(path).corpus.path) != metadata.corpus.path:
        trainer.display.say(f"{path} still names the corpus {other}: write the new one there to keep it")


# --- reports ----------------------------------------------------------------------------------------------------------


def _describe(trainer: "Trainer", reason: str) -> None:
    p, say = trainer.progress, trainer.display.say
    for line in trainer.model.summary():
        say(f"  {line}")
    size = f"{sum(p.numel() for p in trainer.model.parameters()) / 1e6:.1f} million parameters"
    frames, held_out = sum(trainer.train_set.steps), sum(trainer.prepared.held_out_set.steps)
    precision = str(trainer.precision).removeprefix("torch.")
    say(f"device: {trainer.device} ({reason})")
    say(f"model: {size}, {precision}; {frames:,} frames to learn, {held_out:,} held out")
    if p.step:
        say(f"continuing from step {p.step:,}, {p.seconds / 60:.1f} minutes")


class Reporter:
    """Update the display after training steps, at most ten times a second."""

    def __init__(self, trainer: "Trainer") -> None:
        self.task = trainer.display.task("training", 1.0)
        self.first_step, self.started, self.last_update = trainer.progress.step, time.monotonic(), 0.0
        self.frames_per_second = 0.0

    def __call__(self, trainer: "Trainer") -> None:
        p, t, now = trainer.progress, trainer.metadata.training, time.monotonic()
        self.frames_per_second = (p.step - self.first_step) * t.batch_size * t.window / max(now - self.started, 1e-9)
        if now - self.last_update < REPORT_EVERY_S:
            return
        self.last_update = now
        held_out = f"{p.validation_nats:.2f}" if p.validation_nats is not None else "-"
        loss = f"loss {p.train_nats:.2f} nats, held-out {held_out}"
        note = f"step {p.step:,}, {loss}, {self.frames_per_second:,.0f} frames/s"
        remaining_s = trainer.remaining_s(self.frames_per_second)
        self.task.update(trainer.fraction_done(), note, remaining_s, step=p.step, training=p.train_nats)


class ContinuationLogger:
    """Continue held-out music (or, with notes, start from nothing) after validations, and log the sound to TensorBoard.

    Sound stops when `CONTINUE_FRACTION` of the time is used up, and a slow continuation delays the next one.
    """

    def __init__(self, trainer: "Trainer", log: "TrainingLog") -> None:
        self.log, self.last_s, self.wait_s = log, trainer.progress.seconds, CONTINUE_EVERY_S

    def __call__(self, trainer: "Trainer") -> None:
        p = trainer.progress
        since_s = p.seconds - self.last_s
        if since_s < self.wait_s or not p.history or p.history[-1][0] != p.step:
            return
        started = time.monotonic()
        samples = sample_continuation(trainer, CONTINUE_FRACTION * since_s)
        if len(samples):  # a busy machine may compute none in that time
            self.log.add_audio(p.step, samples, trainer.metadata.corpus.sample_rate_hz)
        taken_s = time.monotonic() - started
        self.last_s, self.wait_s = p.seconds + taken_s, max(CONTINUE_EVERY_S, taken_s / CONTINUE_FRACTION)


def sample_continuation(trainer: "Trainer", seconds: float) -> "np.ndarray":
    """Return what the average weights generate, `(N,)` or `(N, 2)`; sound ends early after `seconds` of computing."""
    import numpy as np

    from continuo.audio.piece import Piece
    from predictor import Predictor, SongTake, joined

    deadline = time.monotonic() + seconds
    facts: Facts = {"metadata": trainer.metadata.to_json(), "progress": trainer.progress}
    predictor = Predictor(trainer.featurizer, trainer.average, trainer.device, facts)
    if predictor.modality == "notes":
        from continuo.score.synth import render

        take = predictor.take(None)
        assert isinstance(take, SongTake)
        return render(take.song(CONTINUE_STEPS).performance(), predictor.sample_rate_hz)
    piece = trainer.prepared.held_out_pieces[0]
    assert isinstance(piece, Piece)
    prompt = piece.excerpt(0, round(piece.extent * min(1, CONTINUE_PROMPT_S / piece.seconds)), "beginning")
    blocks = joined(predictor.take(prompt), prompt, CONTINUE_STEPS)
    in_time = [*itertools.takewhile(lambda block: time.monotonic() < deadline, blocks)]
    return np.concatenate(in_time or [np.zeros(0, np.float32)])


def _conclude(trainer: "Trainer", reporter: Reporter, meta: Path) -> None:
    from continuo.model.advice import lever, memorizes

    p, say = trainer.progress, trainer.display.say
    if trainer.fraction_done() < 1:
        say(f"stopped and saved at step {p.step:,}: the same command continues from there")
        return
    in_steps = trainer.budget_steps is not None
    done = f"{p.step:,} steps" if in_steps else f"{p.seconds / 60:.1f} minutes"
    more = f"--steps {2 * p.step}" if in_steps else f"--minutes {max(1, round(p.seconds / 30))}"
    loss = f", held-out loss {p.best_nats:.2f} nats per step" if p.best_nats is not None else ""
    already = "nothing was left to do: already " if p.step == reporter.first_step else ""
    say(f"{already}trained for {done}{loss}; state in {trainer.state_path}")
    if memorizes(p):
        say(lever(p))
    else:
        say(f"to train longer: {command('train')} --meta {meta} {more}")


def _results(trainer: "Trainer", reporter: Reporter) -> dict[str, object]:
    p = trainer.progress
    return {
        "step": p.step,
        "seconds": round(p.seconds, 3),
        "frames_per_second": round(reporter.frames_per_second, 1),
        "train_nats": p.train_nats,
        "validation_nats": p.validation_nats,
        "best_nats": p.best_nats,
        "best_step": p.best_step,
        "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
        "state": str(trainer.state_path),
    }


if __name__ == "__main__":
    sys.exit(main())
