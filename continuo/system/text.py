"""Words in messages: suggestions, plurals, and text that is safe to print on one line."""

import difflib
from collections.abc import Iterable

MAX_LETTERS = 600  # longest message; a longer one loses its middle


def suggestion(word: str, known: Iterable[str], *, least: float = 0.6) -> str:
    """`; did you mean 'x'?` where something known is close to `word`, else nothing.

    >>> suggestion("--promt", ["--prompt", "--out"])
    "; did you mean '--prompt'?"
    """
    close = difflib.get_close_matches(word, [other for other in known if other != word], n=1, cutoff=least)
    return f"; did you mean {close[0]!r}?" if close else ""


def pluralize(number: int, thing: str) -> str:
    """A number and what it counts.

    >>> pluralize(1, "piece"), pluralize(2000, "piece")
    ('1 piece', '2,000 pieces')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def one_line(text: str) -> str:
    """`text` on one line, control characters shown, shortened in the middle to about `MAX_LETTERS`."""
    line = " ".join(text.split())
    if len(line) > MAX_LETTERS:
        line = f"{line[: MAX_LETTERS // 2]} ... {line[-MAX_LETTERS // 2 :]}"
    return printable(line)


def printable(text: str) -> str:
    """`text` with control characters (newlines, terminal escapes) written as escapes.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
