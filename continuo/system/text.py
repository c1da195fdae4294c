"""Text: suggestions and plurals in messages, text that is safe to print on one line, and numbers in files."""

import difflib
import math
from collections.abc import Iterable

MAX_LETTERS = 600  # longest message; a longer one loses its middle


def suggestion(word: str, known: Iterable[str], *, least: float = 0.6) -> str:
    """Return `; did you mean 'x'?` for the known word closest to `word`, or an empty string if none is close.

    >>> suggestion("--promt", ["--prompt", "--out"])
    "; did you mean '--prompt'?"
    """
    close = difflib.get_close_matches(word, [other for other in known if other != word], n=1, cutoff=least)
    return f"; did you mean {close[0]!r}?" if close else ""


def pluralize(number: int, thing: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    >>> pluralize(1, "piece"), pluralize(2000, "piece")
    ('1 piece', '2,000 pieces')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def one_line(text: str) -> str:
    """Return `text` on one line, control characters as escapes, shortened in the middle to about `MAX_LETTERS`."""
    line = " ".join(text.split())
    if len(line) > MAX_LETTERS:
        line = f"{line[: MAX_LETTERS // 2]} ... {line[-MAX_LETTERS // 2 :]}"
    return printable(line)


def printable(text: str) -> str:
    """Return `text` with control characters (newlines, terminal codes) written as escapes.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def finite_number(text: str | None) -> float | None:
    """Return a finite number, or None for other texts.

    >>> finite_number(" 0.5"), finite_number("inf"), finite_number("a half"), finite_number(None)
    (0.5, None, None, None)
    """
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
