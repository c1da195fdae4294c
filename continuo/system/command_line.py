"""Handle one-line refusals with exit status 2, signals, and too little memory, for all commands."""

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from continuo.system.paths import command, program
from continuo.system.text import one_line

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BROKEN_PIPE = 128 + 13  # exit status of a program that SIGPIPE ended
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not create a memory")  # torch
HINTS = {
    errno.ENOSPC: ": free some space",
    errno.EDQUOT: ": free some space",
    errno.EFBIG: ": the limit for file sizes is reached, see ulimit -f",
    errno.EACCES: ": check its permissions",
    errno.EROFS: ": choose another folder",
    errno.ENOENT: ": check the spelling, or whether it was removed",
    errno.ENOTDIR: ": a part of this path is a file",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses bad input in one line with exit status 2.

    `name` is that of a command such as "train", or the words that start another program. In `description`, the text
    above the options, "%(prog)s" stands for the words that start the command.
    """

    def __init__(self, name: str, description: str | None) -> None:
        self.name, style = program(name), argparse.RawDescriptionHelpFormatter
        super().__init__(prog=command(name), description=description, formatter_class=style)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.name}: {one_line(message)}; {self.prog} --help lists the options\n")


def nonempty_path(text: str) -> Path:
    """Return the path that a flag was given; an empty one, as from an unset shell variable, is refused."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: name a file")
    return Path(text)


def run_main(body: Callable[[], int], *, name: str) -> int:
    """Run the body of a command and return its exit status.

    Bad input (ValueError, OSError) and a lack of memory become one line on standard error and exit status 2. The
    reader of standard output may close it early. SIGTERM and SIGHUP end the body through its cleanup. With
    CONTINUO_DEBUG=1 the traceback is shown.
    """
    try:
        leave = lambda signum, _: sys.exit(128 + signum)  # noqa: E731
        with on_signals(STOPPING[1:], leave), within_memory("close other programs, or use less data at once"):
            status = body()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a target for the flush at exit
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{program(name)}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename or 'the file system'}: {error.strerror}{HINTS.get(error.errno or 0, '')}"
        print(f"{program(name)}: {one_line(reason)}", file=sys.stderr)
        return 2


@contextmanager
def on_signals(signums: Iterable[signal.Signals], handle: Callable[[int, object], object]) -> Iterator[None]:
    """Handle signals inside the block, in the main thread alone, as others cannot; nohup ignores SIGHUP."""
    is_main = threading.current_thread() is threading.main_thread()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {signum: signal.signal(signum, handle) for signum in signums if is_main and signum not in ignored}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def exit_now(status: int) -> NoReturn:
    """End the process without the interpreter's cleanup, which takes most of a second once torch is loaded."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Raise ValueError with advice where NumPy, torch or Python cannot allocate memory inside the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)):
            raise
        raise ValueError(f"there is not enough memory: {advice}") from error
