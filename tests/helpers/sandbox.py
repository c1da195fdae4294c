"""Run the project's scripts on hostile input: each run in a process of its own, with limits and audit hooks.

    box = Sandbox(folder)
    outcome = box.run("predict", "--prompt", "x.mid", "--frames", "0", cwd=folder)

Importing takes seconds, so a server imports everything once and forks for each run. A run ends with an exit status of
its own if it unpickles, starts a program, connects, or writes a file outside of its folder and the cache.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CPU_S = 20  # processor time; a longer run counts as hanging
WALL_S = 300.0  # elapsed time, on a machine that may be busy; a longer run counts as blocked
MEMORY_BYTES = 2 * 10**9  # resident memory
CRASHED, UNPICKLED, STARTED, CONNECTED, WROTE = 70, 71, 72, 73, 74
FORBIDDEN = {
    "pickle.find_class": UNPICKLED,
    "subprocess.Popen": STARTED,
    "os.system": STARTED,
    "os.exec": STARTED,
    "os.posix_spawn": STARTED,
    "socket.connect": CONNECTED,
}
DECODER_PREFIXES = ("Note: ", "Warning: ", "[src/libmpg123")
"""Beginnings of the lines that libsndfile's MP3 decoder prints about damaged files; they cannot be switched off."""
WORDS = {
    CRASHED: "an exception reached the top",
    UNPICKLED: "something was unpickled",
    STARTED: "a program was started",
    CONNECTED: "a connection was made",
    WROTE: "a file was written elsewhere",
}


class Outcome(NamedTuple):
    """The result of a run: exit status (negative: the signal that ended it), output, processor time and memory."""

    status: int
    out: str
    err: str
    seconds: float
    peak_bytes: int

    def complaint(self, script: str) -> str:
        """Return why the run is neither a success nor a refusal of one printable line, or "" if it is either."""
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"ended by {name} after {self.seconds:.1f} s, {self.peak_bytes / 1e9:.2f} GB\n{self.err[-2000:]}"
        if self.status not in (0, 2):
            return f"exit status {self.status} ({WORDS.get(self.status, 'unknown')})\n{self.err[-3000:]}"
        if self.peak_bytes > MEMORY_BYTES:
            return f"{self.peak_bytes / 1e9:.2f} GB resident\n{self.err[-500:]}"
        if not all(c.isprintable() or c == "\n" for c in self.out + self.err):
            return f"it prints control characters: {self.out + self.err!r:.2000}"
        lines = [line for line in self.err.splitlines() if line and not line.startswith(DECODER_PREFIXES)]
        shown = [line for line in lines if not line.startswith(("skipped ", "reading the corpus "))]
        if self.status == 2 and not (
            len(shown) == 1 and shown[0] == lines[-1] and shown[0].startswith(f"{script}.py: ")
        ):
            return f"a refusal is not one line but {self.err[-2000:]!r}"
        if self.status == 2 and len(shown[0]) > 1000:
            return f"a refusal of {len(shown[0])} characters: {shown[0]:.300}"
        if any("Traceback" in line or "Warning" in line for line in lines):
            return f"it prints what is no line of ours\n{self.err[-2000:]}"
        return ""


class Sandbox:
    """Run scripts one after another in a server whose cache lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {
            "CONTINUO_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(ROOT),
        }
        environment.pop("CONTINUO_DEBUG", None)
        self.log = open(folder / "server.log", "w")  # noqa: SIM115 (closed in close)
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=folder,
            env=environment,
        )

    def run(self, script: str, *argv: str | Path, cwd: Path, pictures: bool = False) -> Outcome:
        """Run `script` (train, predict, corpus or evaluate) with arguments in the folder `cwd`.

        Drawing takes ten times as long as the rest, so it is left out unless `pictures` is true.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        order = {
            "script": script,
            "argv": [os.fsencode(word).hex() for word in argv],
            "cwd": str(cwd),
            "pictures": pictures,
        }
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, f"the server left: {Path(self.log.name).read_text()[-2000:]}"
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)
        self.log.close()


def _serve() -> None:
    """Import everything, then run each order that standard input holds."""
    import matplotlib.pyplot as plt
    import miditok
    import music21.musicxml.xmlToM21
    import sklearn.cluster
    import symusic
    import torch
    import torchaudio
    from matplotlib.figure import Figure

    import corpus
    import evaluate
    import predict
    import train
    import trainer
    from continuo.audio import pictures
    from continuo.score import synth
    from continuo.symbolic import writing

    loaded = (miditok, music21, sklearn, symusic, torchaudio, trainer, pictures, synth, writing)
    assert all(loaded)

    torch.set_num_threads(1)
    plt.figure().savefig(os.devnull, format="png")
    mains = {"train": train.main, "predict": predict.main, "corpus": corpus.main, "evaluate": evaluate.main}
    for line in sys.stdin:
        order = json.loads(line)
        argv = [os.fsdecode(bytes.fromhex(word)) for word in order["argv"]]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                if not order["pictures"]:
                    Figure.savefig = lambda self, *args, **kwargs: None
                _run(mains[order["script"]], argv, order["cwd"], out.fileno(), err.fileno())
            status, usage = _wait(child, started + WALL_S)
            seconds = usage.ru_utime + usage.ru_stime
            printed = [_text(file) for file in (out, err)]
        outcome = Outcome(status, *printed, seconds, usage.ru_maxrss * 1024)
        print(json.dumps(outcome._asdict()), flush=True)


def _text(file) -> str:
    file.seek(0)
    return file.read(1 << 20).decode("utf-8", "backslashreplace")


def _wait(child: int, deadline: float) -> tuple[int, resource.struct_rusage]:
    """Wait for a child, kill it at the deadline, and return its exit status as in `Outcome` and its usage."""
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.002)


def _run(main, argv: list[str], cwd: str, out: int, err: int) -> None:
    """Set limits in the child process and run the script; never return."""
    status = CRASHED
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(cwd)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = mapped + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(_watch([cwd, os.environ["CONTINUO_CACHE"], tempfile.gettempdir() + "/tmp"]))
        status = main(argv)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(writable: list[str]):
    """Return an audit hook that ends the process at a forbidden event or a write outside of `writable`."""
    allowed = tuple(os.path.realpath(folder) for folder in writable)

    def hook(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN:
            os.write(2, f"{event} {arguments!r:.200}\n".encode())
            os._exit(FORBIDDEN[event])
        if event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments[1], arguments[2]):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((*allowed, "/dev/null")):
                os.write(2, f"wrote {path!r}\n".encode())
                os._exit(WROTE)

    return hook


def _writes(mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else any(c in mode for c in "wax+")


if __name__ == "__main__":
    _serve()
