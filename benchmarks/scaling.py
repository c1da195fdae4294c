"""What a second process brings: the default model trained by one and by two processes of one thread each.

    python benchmarks/scaling.py [--rounds 3] [--json]

`weak`: each process keeps the preset's batch, so that two train on twice as much in a step; that is `ddp_efficiency`,
the frames per second of two processes over twice those of one. `strong`: two share the batch of one. Each round starts
all of them one after another, and the fastest round of each counts, for the machine may have other work.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from continuo import metadata
from continuo.command import Parser, run_main
from continuo.device import choose_precision
from continuo.processes import Processes
from continuo.team import Team
from trainer import Trainer

WARM_UP, TIMED = 4, 12  # steps


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("scaling.py", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--part", type=Path, metavar="META", help="measure one training; how the parts are started")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="scaling.py")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.part:
        frames_per_second = train(arguments.part)
        if frames_per_second:
            print(frames_per_second)
        return 0
    results = measure(arguments.rounds)
    for name, value in results.items():
        print(f"{name:<36} {value:12,.3f}")
    if arguments.json:
        print(json.dumps(results))
    return 0


def ddp_efficiency(rounds: int = 3) -> float:
    """Frames per second of two processes of one thread over twice those of one, each with its own batch."""
    return measure(rounds)["ddp_efficiency"]


def measure(rounds: int) -> dict[str, float]:
    best = {"one_process": 0.0, "two_processes_weak": 0.0, "two_processes_strong": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        lanes = prepare(Path(folder))
        for _ in range(rounds):
            for name, processes, batch in zip(best, (1, 2, 2), (lanes, 2 * lanes, lanes), strict=True):
                best[name] = max(best[name], started(Path(folder), processes, batch))
    one, weak, strong = best.values()
    results = {f"{name}_frames_per_second": value for name, value in best.items()}
    return results | {"ddp_efficiency": weak / (2 * one), "ddp_efficiency_strong": strong / (2 * one)}


def prepare(folder: Path) -> int:
    """Two minutes of made-up sound with a metadata file beside it; returns the lanes of the preset."""
    rng = np.random.default_rng(0)
    for number in range(4):
        time_s = np.arange(24_000 * 30) / 24_000
        tones = [np.sin(2 * np.pi * rng.uniform(80, 3000) * time_s) * (np.sin(4 * time_s + k) > 0) for k in range(12)]
        soundfile.write(folder / f"{number}.wav", 0.03 * np.sum(tones, axis=0), 24_000)
    precision = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    values = {"corpus.path": str(folder), "corpus.transpose": 0, "training.steps": 10**6}
    values |= {"training.precision": precision, "training.validation_frames": 64}
    made = metadata.from_preset(metadata.DEFAULT_PRESET, values, state="model.safetensors")
    metadata.save(made, folder / "model.json")
    return made.training.batch_size


def started(folder: Path, processes: int, batch: int) -> float:
    """Frames per second of so many processes on a batch of so many lanes in all."""
    made = metadata.load(folder / "model.json", {"training.batch_size": batch})
    meta = folder / f"{processes}-{batch}.json"
    metadata.save(made, meta)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), __file__, "--part", str(meta)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CONTINUO_CACHE": str(folder / "cache")}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def train(meta: Path) -> float:
    """Frames per second of the whole team, at the median step; 0 for processes that do not lead."""
    times: list[float] = []

    def tick(running: Trainer) -> None:
        times.append(time.perf_counter())
        if len(times) == 1 + WARM_UP + TIMED:
            running.stop()

    with Processes() if "WORLD_SIZE" in os.environ else Team() as team:
        torch.set_num_threads(1)
        made = metadata.load(meta)
        trainer = Trainer(made, meta.with_suffix(".safetensors"), torch.device("cpu"), fresh=True, team=team)
        trainer.run(tick)
    seconds = statistics.median(np.diff(times)[WARM_UP : WARM_UP + TIMED])
    return made.training.batch_size * made.training.window / float(seconds) if team.leads else 0.0


if __name__ == "__main__":
    sys.exit(main())
