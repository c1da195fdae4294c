"""What the tests of faults run in processes of their own, which can be killed, starved and shut in.

Processes are forked from a server that has imported everything and has one thread, so that a start costs little. On its
own, `python damage.py FOLDER` mounts small disks in FOLDER (in a mount namespace, see `unshare`), damages them, and
prints what was said as JSON.
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
from continuo.system.files import atomic_write
from predictor import Predictor
from trainer import Trainer

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["damage", "torch._dynamo", "matplotlib.pyplot", "sklearn.model_selection", "tensorboard.compat.proto.summary_pb2"]
)


def process(work: Callable, *arguments: object) -> multiprocessing.Process:
    """`work(*arguments)` in a new process, begun."""
    started = SERVER.Process(target=_alone, args=(work, *arguments), daemon=True)
    started.start()
    return started


def _alone(work: Callable, *arguments: object) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def said(main: Callable, *words: object) -> tuple[int, str]:
    """The exit status of a script and what it wrote to standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main([str(word) for word in words])
    return status, errors.getvalue()


def write_and_die(path: Path) -> None:
    """Be gone in the middle of writing `path`, with another file beside the temporary one, as safetensors makes it."""
    with atomic_write(path) as temporary:
        for unfinished in (temporary, temporary.with_name(".tmpdHTJoD")):
            unfinished.write_bytes(b"half")
        os._exit(9)


def digest(tensors: dict, progress: dict) -> str:
    """Of everything in a state but what the clock says."""
    history = [[step, *nats] for step, _, *nats in progress["history"]]
    parts = hashlib.blake2b(repr(progress | {"seconds": 0, "history": history}).encode())
    for name in sorted(tensors):
        parts.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return parts.hexdigest()


def train_and_log(log: Path, words: list[str], each_state: bool = False) -> None:
    """`train.py` with these words; every step leaves its seconds in `log`, or every state its digest alone."""
    file = open(log, "a", buffering=1)  # noqa: SIM115, until the process ends

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
    """A digest of a module's parameters and buffers."""
    parts = hashlib.blake2b()
    for tensor in module.state_dict().values():
        parts.update(tensor.contiguous().numpy().tobytes())
    return parts.hexdigest()


def train_and_log_averages(log: Path, words: list[str]) -> None:
    """`train.py` with these words; every step leaves a digest of its average in `log`."""
    file = open(log, "a", buffering=1)  # noqa: SIM115, until the process ends

    class Logging(train.Reporter):
        def __call__(self, trainer):
            file.write(f"{trainer.progress.step} {weights_of(trainer.average)}\n")

    train.Reporter = Logging
    raise SystemExit(train.main(words))


def usage() -> dict[str, int]:
    """Memory in bytes, open files and threads of this process."""
    own = psutil.Process()
    return {"memory": own.memory_info().rss, "files": own.num_fds(), "threads": own.num_threads()}


def read_often(meta: Path, out: Path, times: int) -> None:
    """Load a predictor so often; the digest of its weights by step, and what that used on the way, to `out`."""
    seen: dict[int, str] = {}
    used = []
    for count in range(times):
        predictor = Predictor.load(meta)
        seen[predictor.weights_step] = weights_of(predictor.model)
        if count % max(times // 20, 1) == 0:
            used.append(usage())
    out.write_text(json.dumps({"seen": seen, "used": used}))


def save_often(out: Path, words: list[str], every: int) -> None:
    """`train.py` with these words; what it uses, every so many steps, to `out`."""
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
    train.CONTINUE_EVERY_S = 1.0  # what hearing a sample takes for good, it takes soon
    status = train.main(words)
    own = sum(path.name == "model.safetensors" for path in saved)
    out.write_text(json.dumps({"status": status, "saves": own, "used": used, "after": usage()}))


def predict_long(out: Path, words: list[str], every_s: float) -> None:
    """`predict.py` with these words; what it uses, every so many seconds of sound, to `out`."""
    used: list[dict[str, int]] = []

    def watched(predictor, *request, **options):
        made = 0

        def watch(block, fraction):
            nonlocal made
            made += len(block)
            if made >= every_s * predictor.sample_rate_hz * len(used):
                used.append(usage())

        return write_take(predictor, *request, watch=watch, **options)

    assert predict.main([*words, "--frames", "8", "--out", f"{out}.wav"]) == 0  # opens what stays open, fonts say
    write_take, takes.write_take = takes.write_take, watched
    before = usage()
    status = predict.main(words)
    out.write_text(json.dumps({"status": status, "used": used, "before": before, "after": usage()}))


def limited(kind: str, most: int, out: Path, words: list[str]) -> None:
    """`train.py` with these words and at most so many bytes of files ("FSIZE") or of further memory ("AS").

    Memory is short from the first step on, when all libraries are loaded.
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
    out.write_text(json.dumps(said(train.main, *words)))


def small_disks(folder: Path) -> dict[str, object]:
    """Train and predict onto disks that are full or read-only. `folder` holds `music`, `trained` and room for them."""
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
        return said(train.main, "--meta", place / "model.json", *flags)

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
    found["sound"] = said(predict.main, *taken, "--out", small / "take.wav")
    ending = [*taken, "--until-end"]  # how long it will be is not known beforehand
    assert said(predict.main, *ending, "--out", folder / "whole.wav") == (0, "")
    almost = disk("almost", (folder / "whole.wav").stat().st_size + (1 << 14))  # room for the sound, not for all of it
    found["both"] = said(predict.main, *taken, "--out", almost / "take.wav")
    found["both left"] = left(almost)
    found["picture"] = said(predict.main, *ending, "--out", almost / "take.wav")
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
    found["sound read-only"] = said(predict.main, *taken, "--out", full / "take.wav")
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Until it holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps(small_disks(Path(sys.argv[1]))))
