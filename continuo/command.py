"""What every command line shares: refusals of one line, with exit status 2."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(' '.join(message.split()))}; {self.prog} --help shows what there is\n")


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
        print(f"{name}: {printable(' '.join(_explain(error).split()))}", file=sys.stderr)
        return 2


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        hints = {28: ": free some space", 13: ": check its permissions", 2: ": check the spelling"}
        hints |= {17: ": choose another name", 20: ": a part of this path is a file", 21: ": name a file in it"}
        hint = hints.get(error.errno or 0, "")
        return f"{error.filename or 'the file system'}: {error.strerror}{hint}"
    return str(error)


def printable(text: str) -> str:
    """`text` with control characters (newlines, terminal escapes) written as escapes.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
