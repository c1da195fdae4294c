"""Train a model on a folder of music, and save its state while training goes on.

    python train.py                                   the default model on the embedded chorales, 10 minutes
    python train.py --corpus ~/recordings --minutes 60
    python train.py --meta tunes.json --preset PRESET --corpus ~/midi --epochs 10        one of those named below

Stop it with Ctrl-C whenever you like; the same command goes on where it stopped. While it runs,
`python predict.py` continues a score with what has been learned so far.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from continuo.system.command_line import STOPPING, Parser, is_handled, run_main
from continuo.system.files import check_writable, locked, suggest_path
from continuo.system.paths import MODELS

if TYPE_CHECKING:
    import numpy as np

    from continuo.model.checkpoint import Facts
    from continuo.model.training_log import TrainingLog
    from continuo.system.distributed import ProcessGroup
    from trainer import Trainer

# Of OpenMP, before torch is loaded: threads that spin for long starve others where a core is shared.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
LISTEN_EVERY_S = 180.0  # at most so often is a model heard while it trains
LISTEN_SHARE = 0.02  # of the time
LISTEN_STEPS, LISTEN_PROMPT_S = 250, 3.0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("train", __doc__)
    parser.add_argument(
        "--meta", type=Path, default=Path("model.json"), help="metadata file; created if missing (default: model.json)"
    )
    presets = sorted(path.stem for path in MODELS.glob("*.json"))
    parser.add_argument(
        "--preset",
        choices=presets,
        metavar="NAME",
        help=f"the preset to create it from, of {', '.join(presets)} (default: codebook-lstm)",
    )
    parser.add_argument("--corpus", metavar="DIR", help="a folder of recordings or scores, or music21:bach")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="train for so many minutes in all")
    budget.add_argument("--steps", type=int, help="train for so many steps in all")
    budget.add_argument("--epochs", type=float, help="go through the corpus so many times in all")
    parser.add_argument("--device", default="auto", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu")
    parser.add_argument("--checkpoint-every", type=float, metavar="SECONDS", help="save so often (default: 30)")
    parser.add_argument("--seed", type=int, help="of the split, the start and the order (default: 0)")
    parser.add_argument(
        "--from",
        dest="start_from",
        type=Path,
        metavar="STATE",
        help="begin with what another model has learned (its .safetensors), and teach it this corpus",
    )
    parser.add_argument(
        "--prepare-only", action="store_true", help="read and encode the corpus into the cache, and stop there"
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew, overwriting the state there")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, e.g. training.batch_size=16"
    )
    parser.add_argument("--journal", type=Path, metavar="FILE", help="tell programs how it goes: lines of JSON in FILE")
    parser.add_argument("--quiet", action="store_true", help="no progress and no words")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    for name, value in WAITING.items():
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
    """Join the processes that torchrun started; None for a process alone, which can refuse bad input without torch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return contextlib.nullcontext()
    from continuo.system.distributed import ProcessGroup

    return ProcessGroup.from_environment()


def _train_into(state_path: Path, metadata: Any, arguments: argparse.Namespace, group: "ProcessGroup") -> int:
    from continuo.model.metadata import load, save
    from continuo.model.training_log import TrainingLog
    from continuo.system.device import choose
    from continuo.system.progress import Display
    from trainer import Trainer

    device, reason = choose(arguments.device)
    start, fresh = arguments.start_from, arguments.fresh and not group.restarted
    stream = None if group.is_main_process else io.StringIO()
    with (
        _journal(arguments, group) as journal,
        Display(quiet=arguments.quiet or not group.is_main_process, stream=stream, journal=journal) as display,
    ):
        device = group.place(device)
        try:
            trainer = Trainer(metadata, state_path, device, fresh=fresh, start_from=start, display=display, group=group)
        except KeyboardInterrupt:
            display.say("stopped while preparing: what was read is kept in the cache, and no state was touched")
            raise
        if not group.is_main_process:
            return _follow(trainer, arguments)
        if not arguments.meta.exists():  # written once the corpus is found good, so that a slip leaves nothing behind
            save(metadata, arguments.meta)
            if trainer.saved_step >= 0:
                display.say(f"{arguments.meta} was missing: it is made anew as {state_path} says")
        elif (other := load(arguments.meta).corpus.path) != metadata.corpus.path:
            display.say(
                f"{arguments.meta} still says that the corpus is {other}: write the new one there to stay with it"
            )
        _describe(trainer, reason)
        if arguments.prepare_only:
            display.say(f"prepared: python train.py --meta {arguments.meta} trains on it")
            if arguments.json:
                print(json.dumps(_prepared(trainer)))
            return 0
        reporter = Reporter(trainer)
        with _stopped_by_signals(trainer), TrainingLog(state_path, fresh=fresh) as log:
            listener = Listener(trainer, log)

            def report(trainer: "Trainer") -> None:
                reporter(trainer)
                listener(trainer)
                log.write(trainer.progress.step, trainer.progress.train_nats, trainer.progress.history)

            trainer.run(report)
            log.draw(trainer.progress.history, trainer.model.spec.steps_per_second)
        _conclude(trainer, reporter, arguments)
        if arguments.json:
            print(json.dumps(_results(trainer, reporter)))
    return 0


def _journal(arguments: argparse.Namespace, group: "ProcessGroup") -> contextlib.AbstractContextManager[TextIO | None]:
    """The file that programs read, where one is wanted."""
    if arguments.journal is None or not group.is_main_process:
        return contextlib.nullcontext()
    return open(arguments.journal, "a", encoding="utf-8")


def _follow(trainer: "Trainer", arguments: argparse.Namespace) -> int:
    """What a process does that does not lead: its part of the training, in silence."""
    if not arguments.prepare_only:
        with _stopped_by_signals(trainer):
            trainer.run()
    return 0


@contextlib.contextmanager
def _stopped_by_signals(trainer: "Trainer") -> Iterator[None]:
    before = {signum: signal.signal(signum, lambda *_: trainer.stop()) for signum in STOPPING if is_handled(signum)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _metadata(arguments: argparse.Namespace) -> tuple[Any, Path]:
    """The checked metadata, created where it does not exist, and the path of the state."""
    from continuo.model import metadata as md
    from continuo.model import presets

    flags = {
        "corpus.path": arguments.corpus,
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
    overrides |= presets.parse_assignments(arguments.set)
    path: Path = arguments.meta
    state = f"{path.stem}.safetensors"
    there = path if path.exists() else path.with_name(state)
    goes_on = path.exists() or (there.exists() and not (arguments.fresh or arguments.start_from))
    if arguments.start_from and arguments.preset:
        raise ValueError("--from takes the shape of the model from its state, so --preset has no say: leave one out")
    if arguments.start_from and arguments.start_from.suffix == ".json":
        beside = arguments.start_from.with_suffix(".safetensors")
        raise ValueError(f"--from {arguments.start_from} is a metadata file: name the state beside it, {beside}")
    if path.exists():
        metadata = md.load(path, overrides)
    elif goes_on:  # the file is lost: one of the preset would train the default corpus into this model
        metadata = md.validated(_of_state(there), overrides | {"state": state}, source=state)
    elif arguments.start_from:
        if not arguments.start_from.is_file():
            missing = f"--from {arguments.start_from}: there is no such state"
            raise ValueError(f"{missing}{suggest_path(arguments.start_from)}; name a .safetensors file")
        metadata = presets.from_donor(_of_state(arguments.start_from), overrides, state=state)
    else:
        metadata = presets.from_preset(arguments.preset or presets.DEFAULT_PRESET, overrides, state=state)
    if goes_on and arguments.preset and not presets.matches_preset(metadata, arguments.preset):
        raise ValueError(f"{there} exists and is not of the preset {arguments.preset}: choose another --meta")
    if not path.exists():
        check_writable(path, force=False)
    state_path = md.state_path(metadata, path)
    owner = state_path.with_suffix(".json")
    if owner.exists() and os.path.realpath(owner) != os.path.realpath(path):
        raise ValueError(
            f'{path} names the state {metadata.state}, which is that of {owner.name}: write "state": '
            f'"{path.stem}.safetensors" into it for a model of its own, or train --meta {owner}'
        )
    check_writable(state_path, force=True)
    return metadata, state_path


def _of_state(path: Path) -> dict[str, Any]:
    """The metadata that a state was trained by."""
    from continuo.model.checkpoint import read_facts

    return dict(read_facts(path)["metadata"])


def _describe(trainer: "Trainer", reason: str) -> None:
    for line in trainer.model.summary():
        trainer.display.say(f"  {line}")
    parameters = sum(p.numel() for p in trainer.model.parameters())
    frames, held_out = sum(trainer.train_set.steps), sum(trainer.validation_set.steps)
    precision = str(trainer.precision).removeprefix("torch.")
    trainer.display.say(f"device: {trainer.device} ({reason})")
    trainer.display.say(
        f"model: {parameters / 1e6:.1f} million parameters, {precision}; "
        f"{frames:,} frames to learn, {held_out:,} held out"
    )
    if trainer.progress.step:
        trainer.display.say(
            f"going on from step {trainer.progress.step:,}, {trainer.progress.seconds / 60:.1f} minutes"
        )


class Reporter:
    """Keeps the display up to date, ten times a second at most."""

    def __init__(self, trainer: "Trainer") -> None:
        self.task = trainer.display.task("training", 1.0)
        self.first_step, self.started, self.shown = trainer.progress.step, time.monotonic(), 0.0
        self.frames_per_second = 0.0

    def __call__(self, trainer: "Trainer") -> None:
        p, t, now = trainer.progress, trainer.metadata.training, time.monotonic()
        self.frames_per_second = (p.step - self.first_step) * t.batch_size * t.window / max(now - self.started, 1e-9)
        if now - self.shown < 0.1:
            return
        self.shown = now
        held_out = f"{p.validation_nats:.2f}" if p.validation_nats is not None else "-"
        nats = f"loss {p.train_nats:.2f} nats, held-out {held_out}"
        note = f"step {p.step:,}, {nats}, {self.frames_per_second:,.0f} frames/s"
        remaining_s = trainer.remaining_s(self.frames_per_second)
        self.task.update(trainer.share_done(), note, remaining_s, step=p.step, training=p.train_nats)


class Listener:
    """Lets the model be heard in TensorBoard, after validations: held-out music continued, or notes from nothing.

    It takes `LISTEN_SHARE` of the time: sound stops where that is used up, and a slow one makes the next wait.
    """

    def __init__(self, trainer: "Trainer", log: "TrainingLog") -> None:
        self.log, self.heard_s, self.wait_s = log, trainer.progress.seconds, LISTEN_EVERY_S

    def __call__(self, trainer: "Trainer") -> None:
        p = trainer.progress
        since_s = p.seconds - self.heard_s
        if since_s < self.wait_s or not p.history or p.history[-1][0] != p.step:
            return
        started = time.monotonic()
        samples = sample(trainer, LISTEN_SHARE * since_s)
        if len(samples):  # a busy machine may make none in that time
            self.log.hear(p.step, samples, trainer.metadata.corpus.sample_rate_hz)
        taken_s = time.monotonic() - started
        self.heard_s, self.wait_s = p.seconds + taken_s, max(LISTEN_EVERY_S, taken_s / LISTEN_SHARE)


def sample(trainer: "Trainer", seconds: float) -> "np.ndarray":
    """What the averaged weights make now, float32 `(N,)`; no random number of the training is used.

    Args:
        seconds: of computing, after which sound breaks off.
    """
    import numpy as np

    from predictor import Predictor, SongTake, joined

    deadline = time.monotonic() + seconds
    facts: Facts = {"metadata": trainer.metadata.to_json(), "progress": trainer.progress}
    predictor = Predictor(trainer.featurizer, trainer.average, trainer.device, facts)
    if predictor.modality == "notes":
        from continuo.score.synth import render

        take = predictor.take(None)
        assert isinstance(take, SongTake)
        return render(take.song(LISTEN_STEPS).performance(), predictor.sample_rate_hz)
    piece = trainer.validation_pieces[0]
    prompt = piece.excerpt(0, round(piece.extent * min(1, LISTEN_PROMPT_S / piece.seconds)), "beginning")
    blocks = joined(predictor.take(prompt), prompt, LISTEN_STEPS)
    in_time = itertools.takewhile(lambda block: time.monotonic() < deadline, blocks)
    return np.concatenate([np.zeros(0, np.float32), *in_time])


def _conclude(trainer: "Trainer", reporter: "Reporter", arguments: argparse.Namespace) -> None:
    p = trainer.progress
    if not trainer.finished():
        trainer.display.say(f"stopped and saved at step {p.step:,}: the same command goes on from there")
        return
    in_steps = trainer.budget_steps is not None
    done = f"{p.step:,} steps" if in_steps else f"{p.seconds / 60:.1f} minutes"
    more = f"--steps {2 * p.step}" if in_steps else f"--minutes {max(1, round(p.seconds / 30))}"
    nats = f", held-out nats per step {p.best_nats:.2f}" if p.best_nats is not None else ""
    already = "nothing was left to do: already " if p.step == reporter.first_step else ""
    trainer.display.say(f"{already}trained for {done}{nats}; state in {trainer.state_path}")
    trainer.display.say(f"to train longer: python train.py --meta {arguments.meta} {more}")


def _prepared(trainer: "Trainer") -> dict[str, Any]:
    return {
        "pieces": len(trainer.train_set.pieces),
        "held_out_pieces": len(trainer.validation_set.pieces),
        "frames": sum(trainer.train_set.steps),
        "held_out_frames": sum(trainer.validation_set.steps),
    }


def _results(trainer: "Trainer", reporter: Reporter) -> dict[str, Any]:
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
