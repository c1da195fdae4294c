"""What every command line shares: refusals of one line, with exit status 2."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

MOST_LETTERS = 600
"""Of a refusal; the middle of a longer one, which quotes its input at length, is left out."""


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}; {self.prog} --help shows what there is\n")


def run_main(body: Callable[[], int], *, name: str) -> int:
    """Run a script's body; bad input (ValueError, OSError) becomes one line on standard error and exit status 2.

    Set CONTINUO_DEBUG=1 to see the traceback instead.
    """
    try:
        return body()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        print(f"{name}: {one_line(_explain(error))}", file=sys.stderr)
        return 2


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        hints = {28: ": free some space", 13: ": check its permissions", 2: ": check the spelling"}
        hints |= {17: ": choose another name", 20: ": a part of this path is a file", 21: ": name a file in it"}
        hints |= {36: ": choose a shorter one", 40: ": name the file itself", 27: ": choose something smaller"}
        hint = hints.get(error.errno or 0, "")
        return f"{error.filename or 'the file system'}: {error.strerror}{hint}"
    return str(error)


def one_line(text: str) -> str:
    """`text` on one line, control characters shown, shortened in the middle to about `MOST_LETTERS`."""
    line = " ".join(text.split())
    if len(line) > MOST_LETTERS:
        line = f"{line[: MOST_LETTERS // 2]} ... {line[-MOST_LETTERS // 2 :]}"
    return printable(line)


def printable(text: str) -> str:
    """`text` with control characters (newlines, terminal escapes) written as escapes.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
