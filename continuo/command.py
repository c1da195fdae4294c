"""What every command line shares: refusals of one line, with exit status 2."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

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
}


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(' '.join(message.split()))}; {self.prog} --help shows what there is\n")


def run_main(body: Callable[[], int], *, name: str) -> int:
    """Run a script's body; bad input (ValueError, OSError) becomes one line on standard error and exit status 2.

    So does a lack of memory. Set CONTINUO_DEBUG=1 to see the traceback instead.
    """
    try:
        with within_memory("close other programs, or give it less at once"):
            return body()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        print(f"{name}: {printable(' '.join(_explain(error).split()))}", file=sys.stderr)
        return 2


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


def printable(text: str) -> str:
    """`text` with control characters (newlines, terminal escapes) written as escapes.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
