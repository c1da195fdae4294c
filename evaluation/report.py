"""Write the report of an evaluation as one HTML page that needs no network; `report.html` is its template."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from jinja2.runtime import Undefined

from continuo.model.metadata import Json
from continuo.system.text import pluralize


def page(report: Json, pictures: Mapping[str, bytes], sounds: Sequence[tuple[str, Mapping[str, bytes]]]) -> str:
    """Return the page, without what is missing; `pictures` are PNG by name, `sounds` excerpts with FLAC by side."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "pluralize": pluralize, "base64": b64encode}
    return environment.get_template("report.html").render(report, pictures=pictures, sounds=sounds)


def number(value: float | Undefined | None, digits: int = 2, unit: str = "", missing: str = "–") -> str:
    """Return a figure with thousands separators and its unit, or `missing` if there is none.

    >>> number(1234.5, 1, " s"), number(None)
    ('1,234.5 s', '–')
    """
    return missing if value is None or isinstance(value, Undefined) else f"{value:,.{digits}f}{unit}"
