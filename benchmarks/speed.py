"""Measure how fast the default model trains and generates, as ratios to yardsticks of the same run.

    python benchmarks/speed.py [--json] [--write]

The yardsticks are the fastest matrix product of this machine in the precision of the training, a bare `nn.LSTM` of the
same size, the same steps with plain weights, and two processes compared with one. `--write` replaces the section of
benchmarks/RESULTS.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from chords import write_chords
from growth import waiting_fraction
from results import machine, write_section
from scaling import ddp_efficiency

from continuo.audio.piece import Piece
from continuo.model import metadata, presets
from continuo.model.metadata import Sampling
from continuo.system.device import choose_precision
from continuo.system.process_pool import process_map
from continuo.system.workers import WORKERS, use_one_thread
from generation import single_stream
from predictor import Predictor, SoundTake, Take
from trainer import Trainer, build_trainer

STEPS = 15  # timed training steps, after 5 steps of warm-up
TAKES, TAKE_STEPS = 16, 1000  # takes of a process, and steps of a take
OTHERS = {
    "RAVE": ("20", "a laptop's CPU"),
    "Magenta RealTime 2, small": ("2.1 (18.7 ms for a frame of 40 ms)", "an M3 Max"),
    "Musika": ("above 1", "a CPU"),
    "PRiSM SampleRNN": ("0.24; 24 with 100 streams at once", "a V100"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--write", action="store_true", help="replace the section of benchmarks/RESULTS.md")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder))
    section = page(results)
    print(section)
    if arguments.write:
        write_section("speed", section)
    if arguments.json:
        print(json.dumps(results))
    return 0


def page(results: dict[str, float]) -> str:
    """Return the section of the page: the results, and figures that others publish."""
    table = "\n".join(f"| {name} | {value:,.3g} |" for name, value in results.items())
    precision = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    made = f"{machine()} Training in {precision}. Made by `python benchmarks/speed.py --write`."
    ours = {
        "Continuo, default model": (f"{results['generate_realtime_factor']:.3g}", "this machine, two threads"),
        f"the same, {TAKES} takes at once on each core": (
            f"{results['takes_realtime_factor']:.3g}",
            f"this machine, {WORKERS} processes",
        ),
        "the naive loop (plain weights, operation by operation), sound left out": (
            f"{results['codes_per_second_plain_weights'] / 62.5:.2g}",
            "this machine, one thread",
        ),
    }
    rows = "\n".join(f"| {name} | {factor} | {where} |" for name, (factor, where) in (ours | OTHERS).items())
    return (
        f"## The default model\n\n{made}\n\n| | |\n|---|---|\n{table}\n\n"
        "### Others\n\nTimes real time; the figures of others are published ones, on their own hardware.\n\n"
        f"| | x real time | on |\n|---|---|---|\n{rows}\n"
    )


def measure(folder: Path) -> dict[str, float]:
    """Return every figure by name; `folder` is for the model and its music."""
    trainer = trainer_on_chords(folder)
    t, device = trainer.metadata.training, trainer.device
    frames = t.batch_size * t.window
    precision = choose_precision("auto", device)
    seconds = per_step(trainer)
    trainer.save()
    peak = matmul_peak(precision)
    bare = frames / bare_lstm(trainer, precision)
    flops = 3 * 2 * multiplications(trainer)  # forward, and twice that backward
    results = {
        "train_frames_per_second": frames / seconds,
        "bare_lstm_frames_per_second": bare,
        "train_vs_bare_lstm": frames / seconds / bare,
        "matmul_peak_gflops": peak / 1e9,
        "train_vs_matmul_peak": flops * frames / seconds / peak,
        "pipeline_share": waiting_fraction(trainer)[0],
    }
    return results | playing(folder) | starting(folder) | {"ddp_efficiency": ddp_efficiency()}


def trainer_on_chords(folder: Path) -> Trainer:
    """Return a trainer of the default preset on four minutes of synthetic chords."""
    music = folder / "music"
    music.mkdir()
    write_chords(music, pieces=4, seconds=60)
    made = presets.from_preset(
        presets.DEFAULT_PRESET, {"corpus.path": str(music), "training.steps": 10**6}, state="model.safetensors"
    )
    metadata.save(made, folder / "model.json")
    return build_trainer(made, folder / "model.safetensors", torch.device("cpu"))


def per_step(trainer: Trainer) -> float:
    """Return the seconds of one whole training step: windows, forward, backward, optimizer, average."""
    times: list[float] = []
    last = time.perf_counter()

    def tick(running: Trainer) -> None:
        nonlocal last
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if len(times) == STEPS + 5:
            running.stop()

    trainer.run(tick)
    return statistics.median(times[5:])


def matmul_peak(dtype: torch.dtype) -> float:
    """Return the speed of the fastest of some large square products, in FLOP per second."""
    best = 0.0
    for size in (1024, 2048):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        best = max(best, 2 * size**3 / best_seconds(partial(torch.matmul, a, b), 8))
    return best


def bare_lstm(trainer: Trainer, dtype: torch.dtype) -> float:
    """Return the seconds of forward and backward through `nn.LSTM` alone, as large as the model's."""
    t, section = trainer.metadata.training, trainer.metadata.architecture
    lstm = nn.LSTM(section.hidden, section.hidden, section.layers, batch_first=True)
    x = torch.randn(t.batch_size, t.window, section.hidden)

    def step() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            out = lstm(x)[0]
        out.float().sum().backward()

    return best_seconds(step, 8)


def best_seconds(work: Callable[[], object], times: int) -> float:
    """Return the seconds of the fastest of several runs of `work`."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def multiplications(trainer: Trainer) -> int:
    """Return the multiply-adds per frame: every weight matrix once, those of the head once per level."""
    model, total = trainer.model, 0
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and not name.endswith("head.level"):
            shared = name.startswith("head.") and not name.endswith("head.out")
            total += parameter.numel() * (model.spec.levels if shared else 1)
    return total


def playing(folder: Path) -> dict[str, float]:
    """Time what follows a prompt of 4 s: one stream, its codes alone, the plain model, and many takes at once."""
    use_one_thread()  # as predict.py does
    predictor = Predictor.load(folder / "model.json")
    prompt = Piece.from_samples(np.random.default_rng(1).standard_normal(4 * 44_100) * 0.1, 44_100)
    fast, plain = predictor.take(prompt, seed=0), predictor.take(prompt, seed=0)
    plain.stream = single_stream(
        predictor.model,
        predictor.model.bos_context(1),
        predictor.model.initial_state(1),
        seed=0,
        sampling=Sampling(),
        min_steps=0,
    )
    codes, codes_plain = (best_seconds(partial(draw, take, 200), 3) / 200 for take in (fast, plain))
    streams = [one_stream(predictor, prompt) for _ in range(5)]
    return {
        "generate_realtime_factor": max(factor for factor, _ in streams),
        "generate_steps_per_second": max(factor for factor, _ in streams) * predictor.steps_per_second,
        "codes_per_second": 1 / codes,
        "codes_per_second_plain_weights": 1 / codes_plain,
        "first_audio_s": min(first for _, first in streams),
        "takes_realtime_factor": max(together(predictor, prompt) for _ in range(2)),
    }


def one_stream(predictor: Predictor, prompt: Piece) -> tuple[float, float]:
    """Return times real time from the first audio to the last, and the seconds until the first."""
    started = time.perf_counter()
    take = predictor.take(prompt, seed=0)
    made, clock = [-take.overlap_samples], [0.0]  # samples after the prompt so far, and the seconds until then
    for block in take.samples(1000):
        if len(block):
            made.append(made[-1] + len(block))
            clock.append(time.perf_counter() - started)
    first = next(i for i, samples in enumerate(made) if samples > 0)
    return (made[-1] - made[first]) / predictor.sample_rate_hz / (clock[-1] - clock[first]), clock[first]


def draw(take: Take, count: int) -> None:
    """Draw `count` more steps."""
    deque(take.steps(count), 0)


def together(predictor: Predictor, prompt: Piece) -> float:
    """Return times real time of takes made by a process on each core, from when all have started."""
    made = list(process_map(partial(side_by_side, predictor, prompt), range(WORKERS), WORKERS))
    seconds = max(ended for _, ended in made) - min(begun for begun, _ in made)
    return WORKERS * TAKES * TAKE_STEPS / predictor.steps_per_second / seconds


def side_by_side(predictor: Predictor, prompt: Piece, group: int) -> Iterator[tuple[float, float]]:
    """Make a group of takes; yield when it started and ended, by the clock of the machine."""
    deque(predictor.take(prompt).samples(100), 0)
    begun = time.monotonic()
    for take in predictor.takes(prompt, range(TAKES * group, TAKES * (group + 1))):
        assert isinstance(take, SoundTake)
        deque(take.samples(TAKE_STEPS), 0)
    yield begun, time.monotonic()


def starting(folder: Path) -> dict[str, float]:
    """Return the seconds of whole commands: help, and 500 frames after a prompt of 4 s."""
    prompt = ["--prompt", str(folder / "music" / "0.wav"), "--prompt-share", "0.07", "--out", str(folder / "out.wav")]
    asked = {
        "help_s": ["--help"],
        "predict_500_frames_s": ["--meta", str(folder / "model.json"), "--frames", "500", "--force", *prompt],
    }
    run = lambda words: subprocess.run(  # noqa: E731
        [sys.executable, str(ROOT / "predict.py"), "--quiet", *words], check=True, stdout=subprocess.DEVNULL
    )
    return {name: best_seconds(partial(run, words), 3) for name, words in asked.items()}


if __name__ == "__main__":
    sys.exit(main())
