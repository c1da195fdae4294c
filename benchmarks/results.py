"""Write the page of results: each benchmark replaces its own section of benchmarks/RESULTS.md and keeps the others."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "RESULTS.md"


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between `<!-- name -->` and `<!-- /name -->`, which are added at the end if they are missing."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    section = f"{opening}\n{text.strip()}\n{closing}"
    head, found, rest = before.partition(opening)
    if found:
        after = rest.partition(closing)[2]
        page.write_text(f"{head}{section}{after}", encoding="utf-8")
    else:
        page.write_text("\n\n".join(filter(None, [before.rstrip(), section])) + "\n", encoding="utf-8")


def machine() -> str:
    """Return date, machine and versions on one line."""
    versions = f"Python {platform.python_version()}, torch {version('torch')}, numpy {version('numpy')}"
    return f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {versions}."
