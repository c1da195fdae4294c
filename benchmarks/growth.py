"""Measure how time and memory grow with the hours of a corpus, the width of the model and the length of the output.

    python benchmarks/growth.py [--hours 1,10,100] [--widths 256,512,1024,2048] [--lengths 10,60,600,3600]
        [--json] [--write]

Each measurement runs in a new process, so that its memory peak is its own. An exponent is the slope of the logarithm
over the logarithm of the size: 1 is linear. `--write` replaces the tables in benchmarks/RESULTS.md, each in its own
section; an empty list (`--hours ""`) leaves one out. A hundred hours of corpus need 45 GB of disk during the
measurement (in `TMPDIR`) and about 10 minutes on two idle cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from results import machine, write_section

from continuo.system.progress import Display, Task

if TYPE_CHECKING:
    from trainer import Trainer

PIECE_S = 300  # seconds
KINDS = ((24000, 1), (24000, 1), (24000, 1), (44100, 2))  # sample rate and channels of one piece after another
STEPS = 4  # timed training steps, after 2 steps of warm-up
Rows = list[dict[str, float]]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = lambda text: [float(word) for word in text.split(",") if word]  # noqa: E731
    parser.add_argument("--hours", type=sizes, default=[1, 10, 100], help="hours of corpus (default: 1,10,100)")
    parser.add_argument(
        "--widths",
        type=sizes,
        default=[256, 512, 1024, 2048],
        help="widths of the model, hidden and head (default: 256,512,1024,2048)",
    )
    parser.add_argument(
        "--lengths", type=sizes, default=[10, 60, 600, 3600], help="seconds of output (default: 10,60,600,3600)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    parser.add_argument("--write", action="store_true", help="replace the sections of benchmarks/RESULTS.md")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.measure:
        what, size, folder = arguments.measure
        figures = MEASURES[what](float(size), Path(folder))
        print(json.dumps(figures | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}))
        return 0
    results = {
        "hours": [in_own_process("prepare", hours) for hours in arguments.hours],
        **on_one_corpus(arguments.widths, arguments.lengths),
    }
    for name, text in sections(results).items():
        print(f"{text}\n")
        if arguments.write:
            write_section(name, text)
    if arguments.json:
        print(json.dumps(results))
    return 0


# --- measuring ------------------------------------------------------------------------------------------------------


def in_own_process(what: str, size: float, folder: Path | None = None) -> dict[str, float]:
    """Run one measurement in a new process, in `folder` (with its own cache) or in a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return in_own_process(what, size, Path(name))
    command = [sys.executable, __file__, "--measure", what, str(size), str(folder)]
    environment = os.environ | {"CONTINUO_CACHE": str(folder / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    figures: dict[str, float] = {"size": size} | json.loads(done.stdout.splitlines()[-1])
    print(f"{what} {size:g}: {figures}", file=sys.stderr, flush=True)
    return figures


def on_one_corpus(widths: list[float], lengths: list[float]) -> dict[str, Rows]:
    """Measure widths and lengths with one small corpus, prepared once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if widths or lengths:
            in_own_process("begin", 0.5, folder)
        return {
            "widths": [in_own_process("train", width, folder) for width in widths],
            "lengths": [in_own_process("play", length, folder) for length in lengths],
        }


def make_corpus(folder: Path, hours: float) -> None:
    """Write FLAC files of five minutes with chords and a little noise, which repeat every few files.

    Each file has its number in a block that decoders ignore, so that no two have the same content.
    """
    import soundfile

    folder.mkdir()
    models: list[bytes] = []
    for rate_hz, channels in KINDS:
        rng = np.random.default_rng(len(models))
        second = np.arange(PIECE_S * rate_hz) / rate_hz
        audio = rng.standard_normal((len(second), channels)) * 0.0001
        for _ in range(8):
            tone = np.sin(2 * np.pi * rng.uniform(80, 3000) * second) * (np.sin(rng.uniform(0.5, 4) * second) > 0)
            audio += 0.04 * tone[:, None]
        path = folder / "model.flac"
        soundfile.write(path, audio, rate_hz)
        models.append(path.read_bytes())
        path.unlink()
    for number in range(round(hours * 3600 / PIECE_S)):
        flac, mark = models[number % len(KINDS)], b"grow" + number.to_bytes(8, "big")
        block = bytes([2]) + len(mark).to_bytes(3, "big") + mark  # an APPLICATION block behind STREAMINFO
        (folder / f"{number:05}.flac").write_bytes(flac[:42] + block + flac[42:])


class Stopwatch(Display):
    """A display that shows nothing, and keeps the seconds and the processor seconds of every task."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    def task(self, name: str, total: float) -> Task:
        watch, wall, used = self, time.perf_counter(), time.process_time()

        class Timed(Task):
            def close(self) -> None:
                watch.seconds[name] = time.perf_counter() - wall
                watch.processor[name] = time.process_time() - used

        return Timed(self, name, total)


def trainer(folder: Path, display: Display, **keys: float) -> "Trainer":
    """Return a trainer of the default preset on the corpus in `folder`; `keys` are further metadata."""
    import torch

    from continuo.model import metadata, presets
    from trainer import build_trainer

    values: dict[str, object] = {"corpus.path": str(folder / "corpus"), "corpus.transpose": 0, "training.steps": 10**6}
    values |= {"representation.adaptation_steps": 20} | {key.replace("__", "."): value for key, value in keys.items()}
    made = presets.from_preset(presets.DEFAULT_PRESET, values, state="model.safetensors")
    metadata.save(made, folder / "model.json")
    return build_trainer(made, folder / "model.safetensors", torch.device("cpu"), display=display)


def prepare(hours: float, folder: Path) -> dict[str, float]:
    """Time the parts of `train.py --prepare-only`, and decoding alone."""
    import soundfile

    make_corpus(folder / "corpus", hours)
    watch = Stopwatch()
    started = time.perf_counter()
    trainer(folder, watch)
    total = time.perf_counter() - started
    before, sample = time.process_time(), sorted((folder / "corpus").iterdir())[: 4 * len(KINDS)]
    for path in sample:
        for _ in soundfile.blocks(path, 1 << 18, dtype="float32"):
            pass
    bare = (time.process_time() - before) / (len(sample) * PIECE_S)
    encoding = ("encoding", "encoding held-out pieces")
    seconds = 3600 * hours
    return {
        "total_s": total,
        "reading_s": watch.seconds["reading the corpus"],
        "encoding_s": sum(watch.seconds[name] for name in encoding),
        "reading_times_real_time_per_core": seconds / watch.processor["reading the corpus"],
        "encoding_times_real_time_per_core": seconds / sum(watch.processor[name] for name in encoding),
        "bare_decoding_times_real_time_per_core": 1 / bare,
    }


def begin(hours: float, folder: Path) -> dict[str, float]:
    """Prepare the corpus of the other measurements, and a state to predict from."""
    make_corpus(folder / "corpus", hours)
    trainer(folder, Stopwatch()).save()
    return {}


def train(width: float, folder: Path) -> dict[str, float]:
    """Time a training step of the default model at another width."""
    size = {"architecture__hidden": int(width), "architecture__head_width": int(width)}
    own = folder / f"width{width:g}"
    own.mkdir()
    (own / "corpus").symlink_to(folder / "corpus")
    running = trainer(own, Stopwatch(), representation__fit_frames=5000, training__checkpoint_every_s=1e6, **size)
    parameters = sum(parameter.numel() for parameter in running.model.parameters())
    waiting, step_s = waiting_fraction(running)
    return {"million_parameters": parameters / 1e6, "step_s": step_s, "waiting_percent": 100 * waiting}


def waiting_fraction(running: "Trainer") -> tuple[float, float]:
    """Return the fraction of a training step that is spent waiting for the batch, and its seconds (medians)."""
    from dataset import training_batches

    waiting, whole = [], []
    batches = training_batches(running.train_set, running.sampler)
    for _ in range(2 + STEPS):
        started = time.perf_counter()
        batch = next(batches)
        waiting.append(time.perf_counter() - started)
        running._train_step(batch)
        whole.append(time.perf_counter() - started)
    step_s = float(np.median(whole[2:]))
    return float(np.median(waiting[2:])) / step_s, step_s


def play(length_s: float, folder: Path) -> dict[str, float]:
    """Make a continuation of `length_s` seconds and discard it block by block."""
    from continuo.audio.piece import Piece
    from continuo.system.workers import use_one_thread
    from predictor import Predictor

    use_one_thread()  # as predict.py does
    predictor = Predictor.load(folder / "model.json")
    prompt = Piece.from_samples(np.random.default_rng(1).standard_normal(4 * 44_100) * 0.1, 44_100)
    started = time.perf_counter()
    take = predictor.take(prompt, seed=0)
    made = sum(len(block) for block in take.samples(round(length_s * predictor.steps_per_second)))
    made += len(take.finish())
    return {"play_s": time.perf_counter() - started, "made_s": made / predictor.sample_rate_hz}


MEASURES: dict[str, Callable[[float, Path], dict[str, float]]] = {
    "prepare": prepare,
    "begin": begin,
    "train": train,
    "play": play,
}


# --- the tables -----------------------------------------------------------------------------------------------------


def exponent(sizes: list[float], figures: list[float]) -> float:
    """Return the slope of the logarithm of `figures` over that of `sizes`.

    >>> round(exponent([1, 10, 100], [2, 20, 200]), 3)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])


def table(rows: Rows, size: str, columns: dict[str, str]) -> str:
    """Return a Markdown table with a line for every size, and the exponents if there are several sizes."""
    lines = [f"| {size} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['size']:g} | {' | '.join(f'{row[key]:,.4g}' for key in columns)} |")
    if len(rows) > 1:
        sizes = [row["size"] for row in rows]
        slopes = [f"{exponent(sizes, [row[key] for row in rows]):.2f}" for key in columns]
        lines.append(f"| exponent | {' | '.join(slopes)} |")
    return "\n".join(lines)


def sections(results: dict[str, Rows]) -> dict[str, str]:
    """Return the sections of the page, by name, as far as they were measured."""
    made = f"{machine()} Made by `python benchmarks/growth.py --write`."
    found = {}
    if rows := results["hours"]:
        columns = {
            "total_s": "s",
            "reading_s": "reading s",
            "encoding_s": "encoding s",
            "reading_times_real_time_per_core": "reading, x real time per core",
            "encoding_times_real_time_per_core": "encoding, x real time per core",
            "bare_decoding_times_real_time_per_core": "soundfile alone, x real time per core",
            "peak_mb": "peak MB",
        }
        what = "`train.py --prepare-only`. Seconds depend on what else runs; rates per core use the processor's time."
        found["growth-hours"] = f"## Hours of corpus\n\n{what} {made}\n\n{table(rows, 'hours', columns)}"
    if rows := results["widths"]:
        columns = {
            "million_parameters": "million parameters",
            "step_s": "s per training step",
            "waiting_percent": "waiting for batches, %",
            "peak_mb": "peak MB",
        }
        text = f"## Width\n\nTraining, 32 batch rows of 64 steps. {made}\n\n{table(rows, 'width', columns)}"
        if len(rows) > 1:
            parameters = [row["million_parameters"] for row in rows]
            by_time, by_memory = (exponent(parameters, [row[key] for row in rows]) for key in ("step_s", "peak_mb"))
            text += f"\n\nOver the number of parameters: time {by_time:.2f}, memory {by_memory:.2f}."
        found["growth-widths"] = text
    if rows := results["lengths"]:
        columns = {"play_s": "s", "peak_mb": "peak MB"}
        what = "Generating, one stream on one thread."
        found["growth-lengths"] = f"## Length of output\n\n{what} {made}\n\n{table(rows, 'seconds', columns)}"
    return found


if __name__ == "__main__":
    sys.exit(main())
