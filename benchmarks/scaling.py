"""Measure the gain of a second process: train the default model by one and by two processes of one thread each.

    python benchmarks/scaling.py [--rounds 12] [--json]

`weak`: each process keeps the preset's batch, so that two train on twice as much in a step; that is `ddp_efficiency`,
the frames per second of two processes over twice those of one. `strong`: two share the batch of one. `apart`: two at
the same time that exchange nothing, which is the most that this machine's cores, caches and memory allow. The four are
trained in turn, a few steps each, and where only one trains, the other process sleeps; the fastest step of each counts,
for the machine may have other work. `cpu` is the same in seconds of processor time: what exchanging gradients costs,
without the waiting.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from chords import write_chords

from continuo.model import metadata, presets
from continuo.system.command_line import Parser, run_main
from continuo.system.device import choose_precision
from continuo.system.distributed import ProcessGroup
from dataset import training_batches
from trainer import build_trainer

WARM_UP, TURN = 3, 2  # steps of each before any counts, and steps in a turn


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("scaling.py", __doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each (default: 12)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--part", type=Path, metavar="META", help="how this starts its two processes")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="scaling.py")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.part:
        return _part(arguments.part, arguments.rounds)
    results = measure(arguments.rounds)
    for name, value in results.items():
        print(f"{name:<36} {value:12,.3f}")
    if arguments.json:
        print(json.dumps(results))
    return 0


def ddp_efficiency(rounds: int = 12) -> float:
    """Frames per second of two processes of one thread over twice those of one, each with its own batch."""
    return measure(rounds)["ddp_efficiency"]


def measure(rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        meta = prepare(Path(folder))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
        command += ["--part", str(meta), "--rounds", str(rounds)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CONTINUO_CACHE": str(meta.parent / "cache")}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    (one, apart, weak, strong), (cpu_one, _, cpu_weak, _) = json.loads(done.stdout)
    return {
        "one_process_frames_per_second": one,
        "two_processes_apart_frames_per_second": 2 * apart,
        "two_processes_weak_frames_per_second": weak,
        "two_processes_strong_frames_per_second": strong,
        "ddp_efficiency": weak / (2 * one),
        "ddp_efficiency_apart": apart / one,
        "ddp_efficiency_strong": strong / (2 * one),
        "ddp_efficiency_cpu": cpu_weak / (2 * cpu_one),
    }


def prepare(folder: Path) -> Path:
    """Two minutes of made-up sound and a metadata file for it."""
    music = folder / "music"
    music.mkdir()
    write_chords(music, pieces=4, seconds=30)
    precision = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    values = {"corpus.path": str(music), "corpus.transpose": 0, "training.steps": 10**6}
    values |= {"training.precision": precision, "training.validation_frames": 64}
    made = presets.from_preset(presets.DEFAULT_PRESET, values, state="model.safetensors")
    metadata.save(made, folder / "model.json")
    return folder / "model.json"


def _part(meta: Path, rounds: int) -> int:
    """One of the two processes; the first one prints the frames per second of the four trainings."""
    torch.set_num_threads(1)
    with ProcessGroup.from_environment() as group:
        rows = metadata.load(meta).training.batch_size
        alone, apart = (Training(meta, rows, ProcessGroup()) for _ in range(2))
        trainings = [alone, apart, *(Training(meta, batch, group) for batch in (2 * rows, rows))]
        for turn in range(-1, rounds):
            if not group.is_main_process:
                group.all_reduce(0)  # and sleeps at the next one, while the leader trains alone
            for training in trainings if group.is_main_process else trainings[1:]:
                group.all_reduce(0)
                training.steps(TURN if turn >= 0 else WARM_UP, count=turn >= 0)
        if group.is_main_process:
            clocks = zip(*(training.least_s for training in trainings), strict=True)
            print(json.dumps([[t.frames / s for t, s in zip(trainings, clock, strict=True)] for clock in clocks]))
    return 0


class Training:
    """A training that is moved on by a few steps at a time."""

    def __init__(self, meta: Path, batch: int, group: ProcessGroup) -> None:
        made = metadata.load(meta, {"training.batch_size": batch})
        self.trainer = build_trainer(made, meta.with_suffix(".safetensors"), torch.device("cpu"), group=group)
        self.batches = training_batches(self.trainer.train_set, self.trainer.sampler)
        self.frames, self.least_s = batch * made.training.window, (math.inf, math.inf)  # by the clock, and of the CPU

    def steps(self, number: int, *, count: bool) -> None:
        for _ in range(number):
            started, used = time.perf_counter(), time.process_time()
            self.trainer._train_step(next(self.batches))
            if count:
                clock, cpu = time.perf_counter() - started, time.process_time() - used
                self.least_s = min(self.least_s[0], clock), min(self.least_s[1], cpu)


if __name__ == "__main__":
    sys.exit(main())
