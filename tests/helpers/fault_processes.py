"""Train, predict and load in separate processes, which the tests of faults can kill or limit.

Processes are forked from a server that has imported everything and has one thread, so that a start costs little.
`python fault_processes.py FOLDER` mounts small disks in FOLDER (in a mount namespace, see `unshare`), trains and
predicts onto them, and prints the exit statuses and messages as JSON.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

import predict
import takes
import train
from continuo.model import checkpoint
from predictor import Predictor
from trainer import Trainer

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "fault_processes",
        "torch._dynamo",
        "matplotlib.pyplot",
        "sklearn.model_selection",
        "tensorboard.compat.proto.summary_pb2",
    ]
)


def start_process(work: Callable, *arguments: object) -> multiprocessing.Process:
    """Start `work(*arguments)` in a new process, and return the process."""
    started = SERVER.Process(target=_alone, args=(work, *arguments), daemon=True)
    started.start()
    return started


def _alone(work: Callable, *arguments: object) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def run_command(main: Callable, *words: object) -> tuple[int, str]:
    """Return the exit status of a script and its standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main([str(word) for word in words])
    return status, errors.getvalue()


def digest(tensors: dict, progress: dict) -> str:
    """Return a digest of everything in a state except times."""
    history = [[step, *nats] for step, _, *nats in progress["history"]]
    parts = hashlib.blake2b(repr(progress | {"seconds": 0, "history": history}).encode())
    for name in sorted(tensors):
        parts.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return parts.hexdigest()


def train_and_log(log: Path, words: list[str], each_state: bool = False) -> None:
    """Run `train.py`; append the seconds of every step to `log`, or with `each_state` the digest of every state."""
    file = open(log, "a", buffering=1)  # noqa: SIM115 (it stays open until the process ends)

    class Logging(train.Reporter):
        def __call__(self, trainer):
            super().__call__(trainer)
            if not each_state:
                file.write(f"{trainer.progress.step} {trainer.progress.seconds!r}\n")

    save = checkpoint.save

    def logged_save(path, tensors, facts):
        if "progress" in facts and each_state:
            file.write(f"{facts['progress'].step} {digest(tensors, vars(facts['progress']))}\n")
        else:
            save(path, tensors, facts)

    train.Reporter, checkpoint.save = Logging, logged_save
    raise SystemExit(train.main(words))


def weights_of(module: torch.nn.Module) -> str:
    """Return a digest of a module's parameters and buffers."""
    parts = hashlib.blake2b()
    for tensor in module.state_dict().values():
        parts.update(tensor.contiguous().numpy().tobytes())
    return parts.hexdigest()


def train_and_log_averages(log: Path, words: list[str]) -> None:
    """Run `train.py`; append a digest of the average weights to `log` in every step."""
    file = open(log, "a", buffering=1)  # noqa: SIM115 (it stays open until the process ends)

    class Logging(train.Reporter):
        def __call__(self, trainer):
            file.write(f"{trainer.progress.step} {weights_of(trainer.average)}\n")

    train.Reporter = Logging
    raise SystemExit(train.main(words))


def usage() -> dict[str, int]:
    """Return the memory in bytes, open files and threads of this process."""
    own = psutil.Process()
    return {"memory": own.memory_info().rss, "files": own.num_fds(), "threads": own.num_threads()}


def read_often(meta: Path, out: Path, times: int) -> None:
    """Load a predictor `times` times; write the digests of its weights by step, and 20 readings of usage, to `out`."""
    seen: dict[int, str] = {}
    used = []
    for count in range(times):
        predictor = Predictor.load(meta)
        seen[predictor.weights_step] = weights_of(predictor.model)
        if count % max(times // 20, 1) == 0:
            used.append(usage())
    out.write_text(json.dumps({"seen": seen, "used": used}))


def save_often(out: Path, words: list[str], every: int) -> None:
    """Run `train.py`; write the number of saves, and the usage after `every` steps each, to `out`."""
    used = []

    class Watching(train.Reporter):
        def __call__(self, trainer):
            super().__call__(trainer)
            if trainer.progress.step % every == 0:
                used.append(usage())

    saved = []
    save = checkpoint.save

    def counted(path, tensors, facts):
        saved.append(path)
        save(path, tensors, facts)

    train.Reporter, checkpoint.save = Watching, counted
    train.CONTINUE_EVERY_S = 1.0  # the first sample allocates memory for good: early here
    status = train.main(words)
    own = sum(path.name == "model.safetensors" for path in saved)
    out.write_text(json.dumps({"status": status, "saves": own, "used": used, "after": usage()}))


def predict_long(out: Path, words: list[str], every_s: float) -> None:
    """Run `predict.py`; write the usage, read every `every_s` seconds of sound, to `out`."""
    used: list[dict[str, int]] = []

    def watched(predictor, *request, **options):
        made = 0

        def watch(block, fraction):
            nonlocal made
            made += len(block)
            if made >= every_s * predictor.sample_rate_hz * len(used):
                used.append(usage())

        return write_take(predictor, *request, **options | {"watch": watch})

    assert predict.main([*words, "--frames", "8", "--out", f"{out}.wav"]) == 0  # opens the fonts, which stay open
    write_take, takes.write_take = takes.write_take, watched
    before = usage()
    status = predict.main(words)
    out.write_text(json.dumps({"status": status, "used": used, "before": before, "after": usage()}))


def limited(kind: str, most: int, out: Path, words: list[str]) -> None:
    """Run `train.py` with a limit of `most` bytes a file (`kind` "FSIZE") or of further memory ("AS").

    The limit of memory holds from the first step on, when all libraries are loaded.
    """
    run = Trainer.run

    def short(trainer: Trainer, *arguments: object) -> None:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + most, used + most))
        run(trainer, *arguments)

    if kind == "AS":
        Trainer.run = short
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    out.write_text(json.dumps(run_command(train.main, *words)))


def small_disks(folder: Path) -> dict[str, object]:
    """Train and predict onto disks that are full or read-only; return statuses, messages and the files that are left.

    `folder` holds `music` and `trained`; the disks are mounted in it.
    """
    meta, music = folder / "trained" / "model.json", folder / "music"
    state = folder / "trained" / "model.safetensors"
    found: dict[str, object] = {}

    def disk(name: str, size: int) -> Path:
        place = folder / name
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 4096 * 4096}", "none", place], check=True)
        return place

    def make_read_only(place: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)

    def training(place: Path) -> tuple[int, str]:
        (place / "model.json").exists() or (place / "model.json").write_bytes(meta.read_bytes())
        return run_command(train.main, "--meta", place / "model.json", *flags)

    def left(place: Path) -> list[str]:
        return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())

    flags = ["--corpus", music, "--steps", 40, "--device", "cpu", "--quiet", "--checkpoint-every", 1e-6]
    taken = ["--meta", meta, "--prompt", music / "tune0.wav", "--frames", 4000, "--quiet"]

    full = disk("full", int(1.6 * state.stat().st_size))
    found["state"] = training(full)
    found["state left"] = [name for name in left(full) if not name.startswith("model.runs/")]
    found["state step"] = checkpoint.read_facts(full / "model.safetensors")["progress"].step
    found["state again"] = training(full)
    with contextlib.suppress(OSError), open(full / "rest", "wb", buffering=0) as rest:
        while rest.write(bytes(4096)):
            pass
    found["curves"] = training(full)
    found["step after all"] = checkpoint.read_facts(full / "model.safetensors")["progress"].step

    small = disk("small", 1 << 16)
    found["sound"] = run_command(predict.main, *taken, "--out", small / "take.wav")
    ending = [*taken, "--until-end"]  # the length of the take is not known beforehand
    assert run_command(predict.main, *ending, "--out", folder / "whole.wav") == (0, "")
    almost = disk("almost", (folder / "whole.wav").stat().st_size + (1 << 14))  # room for the sound alone
    found["both"] = run_command(predict.main, *taken, "--out", almost / "take.wav")
    found["both left"] = left(almost)
    found["picture"] = run_command(predict.main, *ending, "--out", almost / "take.wav")
    found["sound left"] = left(small)
    found["picture left"] = left(almost)
    found["sound whole"] = (almost / "take.wav").read_bytes() == (folder / "whole.wav").read_bytes()

    own_cache = os.environ["CONTINUO_CACHE"]
    os.environ["CONTINUO_CACHE"] = str(disk("cache", 1 << 16))
    (folder / "elsewhere").mkdir()
    found["cache"] = training(folder / "elsewhere")
    found["cache left"] = left(folder / "cache") + left(folder / "elsewhere")
    make_read_only(folder / "cache")
    found["cache read-only"] = training(folder / "elsewhere")
    os.environ["CONTINUO_CACHE"] = own_cache

    make_read_only(full)
    found["state read-only"] = training(full)
    found["sound read-only"] = run_command(predict.main, *taken, "--out", full / "take.wav")
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait until the condition holds; raise AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps(small_disks(Path(sys.argv[1]))))
