"""What every command line shares: refusals of one line with exit status 2, suggestions, completion, names."""

import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from continuo.system.paths import INSTALLED
from continuo.system.text import one_line, suggestion

SHELLS = ("bash", "zsh")
BROKEN_PIPE = 128 + 13  # as of a program that SIGPIPE ended
SCRIPT = re.compile(r"(?<![\w/.-])(?:python )?(train|predict|evaluate|corpus|studio|export)\.py\b")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not create a memory")  # torch's
HINTS = {
    errno.ENOSPC: ": free some space",
    errno.EDQUOT: ": free some space",
    errno.EFBIG: ": files may not grow so large here, see ulimit -f",
    errno.EACCES: ": check its permissions",
    errno.EROFS: ": choose another place",
    errno.ENOENT: ": check the spelling, or whether it was removed",
    errno.EEXIST: ": choose another name",
    errno.ENOTDIR: ": a part of this path is a file",
    errno.EISDIR: ": name a file in it",
    errno.ENAMETOOLONG: ": choose a shorter one",
    errno.ELOOP: ": name the file itself",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, suggests what was meant, and completes in shells."""

    def __init__(self, prog: str, description: str | None, *, completion: type[argparse.Action] | None = None) -> None:
        super().__init__(
            prog=as_called(prog),
            description=as_called(description or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.words: Sequence[str] = ()
        if " " not in self.prog:  # else the command that it belongs to completes it
            self.add_argument(
                "--completion",
                action=completion or _PrintCompletion,
                choices=SHELLS,
                default=argparse.SUPPRESS,
                help="print what completes this command: in bash to be sourced, in zsh a file of $fpath",
            )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = sys.argv[1:] if args is None else [*args]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        text = one_line(self._misspelt() or _with_suggestion(message))
        self.exit(2, f"{self.prog}: {text}; {self.prog} --help shows what there is\n")

    def _misspelt(self) -> str:
        """The first flag that there is not, in words; it may be why another one is missing."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        for word in self.words:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(flag.startswith(name) for flag in flags):
                return f"there is no flag {name}{suggestion(name, flags, least=0.8)}"
        return ""


class _PrintCompletion(argparse.Action):
    """Like --help: prints, and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from continuo.system.completion import completion

        print(completion(parser, values))
        parser.exit()


def _with_suggestion(message: str) -> str:
    """argparse's word on an invalid choice, with the choice that was probably meant."""
    if found := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        return message + suggestion(found[1], [choice.strip("'") for choice in found[2].split(", ")])
    return message


def nonempty_path(text: str) -> Path:
    """The path that a flag was given; argparse says so where it is empty, as of a shell variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a file")
    return Path(text)


def as_called(text: str) -> str:
    """`text`, which names scripts as a checkout does, with the names that they have where Continuo is installed."""
    return SCRIPT.sub(r"continuo \1", text) if INSTALLED else text


def run_main(body: Callable[[], int], *, name: str) -> int:
    """Run a script's body; bad input (ValueError, OSError) becomes one line on standard error and exit status 2.

    So does a lack of memory. Whoever reads standard output may stop reading. SIGTERM and SIGHUP end it by way of
    whatever has to be cleaned away. Set CONTINUO_DEBUG=1 to see the traceback instead.
    """
    try:
        with _leaving_on_signals(), within_memory("close other programs, or give it less at once"):
            status = body()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at exit has nowhere to go
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{as_called(name)}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        print(f"{as_called(name)}: {as_called(one_line(_explain(error)))}", file=sys.stderr)
        return 2


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded(signum: signal.Signals) -> bool:
    """Whether a signal means anything: not so SIGHUP under nohup."""
    return signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN


@contextmanager
def _leaving_on_signals() -> Iterator[None]:
    def leave(signum: int, _: object) -> NoReturn:
        sys.exit(128 + signum)

    mine = threading.current_thread() is threading.main_thread()  # only there handlers can be set
    before = {signum: signal.signal(signum, leave) for signum in STOPPING[1:] if mine and heeded(signum)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def leave(status: int) -> NoReturn:
    """End the process at once: once torch is loaded, what Python clears away at the end takes most of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """What does not fit in memory becomes a refusal with advice.

    Raises:
        ValueError: NumPy, torch or Python itself could not have the memory that was asked for.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)):
            raise
        raise ValueError(f"there is not enough memory: {advice}") from error


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        hint = HINTS.get(error.errno or 0, "")
        return f"{error.filename or 'the file system'}: {error.strerror}{hint}"
    return str(error)
