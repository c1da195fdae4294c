"""MusicXML files: how they are opened, and what becomes of each of their elements.

MusicXML arrives as plain XML in any encoding that expat knows, or zipped (.mxl). Its size (also after unzipping), its
depth and its entities are checked before it is read. No entity is ever declared or fetched. `continuo.score.reader`
reads the notes; `MEANINGS` says what becomes of each element.

Source: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (all elements; compressed files).
"""

from __future__ import annotations

import codecs
import io
import os
import posixpath
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote
from xml.etree.ElementTree import Element, SubElement, TreeBuilder
from xml.parsers import expat

from continuo.score.measures import WrittenScore
from continuo.score.reader import read_score
from continuo.system.text import one_line

MAX_FILE_BYTES = 32 * 2**20  # bytes of a file; the largest songs of OpenScore are 100 times smaller
MAX_XML_BYTES = 128 * 2**20  # bytes of XML text after unzipping
MAX_DEPTH = 48  # nested elements; MusicXML needs about 10
MAX_ELEMENTS = 3_000_000  # elements of a score; a symphony has about a million
MAX_DOTS = 8  # dots of a note
MAX_COUNT = 128  # value of the elements and attributes below; no score needs more
MULTIBYTE = {
    r"utf_?8|unicode": "utf-8", r"(windows-)?ansi": "cp1252", r"windows-874": "cp874", r"x-mac-roman": "mac_roman",
    r"(x-)?s(hift)?[_-]?jis|ms_kanji|windows-31j|cp932": "cp932", r"euc-?jp|x-euc-jp": "euc_jp",
    r"iso-2022-jp": "iso2022_jp", r"gb[_-]?2312(-80)?|gbk|gb18030|x-gbk|euc-?cn|cp936|windows-936": "gb18030",
    r"(x-)?euc-?kr|ks_?c_?5601(-1987|-1989)?|cp949|windows-949|uhc": "cp949", "johab": "johab",
    r"big-?5|cp950|windows-950": "cp950", r"big5-?hkscs": "big5hkscs",
}  # fmt: skip
"""Python codecs of encodings that expat does not know by patterns of their names (https://www.iana.org/assignments/character-sets)."""
COUNTED = ("fifths", "beats", "staves", "chromatic", "octave", "alter", "degree-alter")
COUNTED_ATTRIBUTES = (("ending", "number"), ("repeat", "times"))
PERFORMED, IRRELEVANT, NAMED = "performed", "irrelevant", "named"
COMPARISON = "a metronome mark that compares notes"
MEANINGS = {
    meaning: tags
    for block in Path(__file__).with_name("elements.txt").read_text(encoding="utf-8").split("\n\n")
    for meaning, _, tags in [block.partition(":")]
}
"""All elements of MusicXML 4.0 by what becomes of them.

Performed are also those that say how others are performed. Irrelevant to sound are layout, print, text, fingerings,
data about the file, and signs for what other elements say. The others would change the sound and are not performed:
the warnings name them, `NAMED` ones by the name of the element.
"""
ELEMENTS = {tag: meaning for meaning, tags in MEANINGS.items() for tag in tags.split()}
NEUTRAL = ("0", "1", "off")  # texts of these elements that change nothing
UNPERFORMED_ATTRIBUTES = {
    "pan": "pan", "elevation": "elevation", "soft-pedal": "soft pedal", "attack": "attack", "release": "release",
    "end-dynamics": "end dynamics",
}  # fmt: skip
"""Attributes of <sound> and <note> that would change the sound, and their names in warnings."""
_NUMBERS = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; ValueError if it is missing, unreadable, empty or above `MAX_FILE_BYTES`."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: neither a score nor a MIDI file; name one")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path.name}: larger than {MAX_FILE_BYTES // 2**20} MiB; no score is")
    if not data.strip(b"\0 \r\n\t"):
        raise ValueError(f"{path.name}: the file is empty; export the score again")
    return data


@contextmanager
def explain_errors(name: str, problem: str) -> Iterator[None]:
    """Turn any exception of the block into a ValueError of one line that begins with the file's name.

    Other exceptions than ValueError are unexpected; they are named too, and CONTINUO_DEBUG=1 lets them through.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(str(error))}") from None
    except Exception as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {one_line(str(error))}"
        raise ValueError(f"{name}: {problem} ({reason}); CONTINUO_DEBUG=1 shows where") from error


def parse_score(data: bytes) -> WrittenScore:
    """Return the score in a MusicXML file (plain or zipped) as it is written; ValueError if it is none.

    It has the form of `continuo.score.measures`, at sounding pitch.
    """
    root = parse_xml(unzip(data) if data.startswith(b"PK") else data)
    if root.tag == "score-timewise":
        _to_partwise(root)
    if root.tag == "opus":
        raise ValueError("an opus only lists other files; give one of its scores")
    if root.tag != "score-partwise":
        raise ValueError(f"not a MusicXML score (its root element is <{root.tag}>)")
    if root.find("part/measure") is None:
        raise ValueError("the score has no measures")
    _check_counts(root)
    return read_score(root, _unperformed(root))


def unzip(data: bytes) -> bytes:
    """Return the score in a compressed MusicXML file: the container's first root file, or else its first XML member.

    Raise ValueError if it is no zip, damaged, encrypted, without a score, or above `MAX_XML_BYTES` unzipped.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            stated = _root_file(archive) if "META-INF/container.xml" in names else None
            name = next((n for path in _spellings(stated or "") for n in names if path in _spellings(n)), None)
            if name is None:
                own = [n for n in names if not n.startswith("META-INF") and "__MACOSX" not in n]
                name = next((n for n in own if n.lower().endswith((".musicxml", ".xml"))), None)
            if name is None:
                raise ValueError("the archive holds no MusicXML score")
            return _read_member(archive, name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a readable .mxl archive ({one_line(str(error))})") from None


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack one member; raise ValueError above `MAX_XML_BYTES`, even if its header states less."""
    with archive.open(name) as stream:
        data = stream.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"unpacks to more than {MAX_XML_BYTES // 2**20} MiB; this is no ordinary score")
    return data


def _spellings(path: str) -> list[str]:
    """Return how a path in an archive is compared, the exact one first: plain, unquoted, in small letters, repaired.

    Programs write "./song.xml", "/song.xml", "my%20song.xml", and names in UTF-8 that zip reads as code page 437.

    >>> _spellings("./My%20song.xml")[:3]
    ['My%20song.xml', 'My song.xml', 'my song.xml']
    """
    plain = posixpath.normpath(path.replace("\\", "/")).lstrip("/")
    found = [plain, unquote(plain), unquote(plain).lower()]
    with suppress(UnicodeError):
        found.append(plain.encode("cp437").decode().lower())
    return [unicodedata.normalize("NFC", spelling) for spelling in found] if path else []


def _root_file(archive: zipfile.ZipFile) -> str | None:
    """Return the path in META-INF/container.xml: the first root file of a MusicXML type, or the first of all."""
    try:
        container = parse_xml(_read_member(archive, "META-INF/container.xml"))
    except ValueError:
        return None
    files = [e for e in container.iter() if e.tag.rpartition(":")[2] == "rootfile"]
    typed = [e for e in files if "musicxml" in (e.get("media-type") or "")]
    return next((e.get("full-path") for e in typed + files), None)


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"declares the entity {name!r}; entities are refused for safety")


def parse_xml(data: bytes) -> Element:
    """Parse XML into an element tree; ValueError if it is ill-formed, too deep or large, or declares entities."""
    builder = TreeBuilder()
    data, encoding = _recoded(data)
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} elements; no score is")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    if data.count(b"<") - data.count(b"</") > MAX_ELEMENTS:
        raise ValueError(f"more than {MAX_ELEMENTS} elements; split the score")
    problem = ""
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        problem = f"ill-formed XML ({error}); export the score again"
    except (LookupError, UnicodeError) as error:
        problem = f"unknown or wrong text encoding ({one_line(str(error))})"
    root: Element | None = builder.close()  # what came before a problem
    if problem or root is None:
        raise ValueError(problem)
    return root


def _recoded(data: bytes) -> tuple[bytes, str | None]:
    """Return XML, in UTF-8 if expat does not know its encoding, and the encoding if it is not the declared one.

    Raise ValueError for bytes that are not in the declared encoding.
    """
    declared = re.match(rb"<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)", data)
    name = declared.group(1).decode().lower() if declared else ""
    # Some exporters declare UTF-16 and write UTF-8. A declaration that is readable as single bytes is not UTF-16.
    if data.startswith(codecs.BOM_UTF8) or name.startswith(("utf-16", "utf16")):
        return data, "utf-8"
    codec = next((codec for known, codec in MULTIBYTE.items() if re.fullmatch(known, name)), None)
    try:
        return (data.decode(codec).encode(), "utf-8") if codec else (data, None)
    except UnicodeError as error:
        raise ValueError(f"not in the encoding {name} that it declares ({one_line(str(error))})") from None


def _check_counts(root: Element) -> None:
    """Raise ValueError for numbers that no score needs."""
    stated = [(tag, element.text or "") for tag in COUNTED for element in root.iter(tag)]
    stated += [(tag, element.get(name, "")) for tag, name in COUNTED_ATTRIBUTES for element in root.iter(tag)]
    for tag, text in stated:
        if len(text) > 400 or any(float(number) > MAX_COUNT for number in _NUMBERS.findall(text)):
            raise ValueError(f"<{tag}> holds {text[:20]!r}, and {MAX_COUNT} is the maximum; correct it")
    if any(len(note.findall("dot")) > MAX_DOTS for note in root.iter("note")):
        raise ValueError(f"a note has more than {MAX_DOTS} dots; correct it")


def _unperformed(root: Element) -> list[str]:
    """Return warnings for what a score states and nobody performs, and for elements that MusicXML does not have."""
    names = dict.fromkeys(name for tag in ("note", "sound") for e in root.iter(tag) for name in _unperformed_in(e))
    tags = dict.fromkeys(element.tag for element in root.iter())
    for tag in tags:
        meaning = ELEMENTS.get(tag, PERFORMED)
        is_named = meaning not in (PERFORMED, IRRELEVANT, COMPARISON)  # the reader of tempos names comparisons
        if is_named and any((element.text or "").strip() not in NEUTRAL for element in root.iter(tag)):
            names[tag.replace("-", " ") if meaning == NAMED else meaning] = None
    found = [f"not performed: {name}" for name in names]
    unknown = " ".join(sorted(tags.keys() - ELEMENTS.keys()))[:80]
    return found + ([f"not elements of MusicXML: {unknown}"] if unknown else [])


def _unperformed_in(element: Element) -> Iterator[str]:
    """Yield what the attributes of a <sound> or <note> and its ties state and nobody performs."""
    for attribute, name in UNPERFORMED_ATTRIBUTES.items():
        if element.get(attribute) not in (None, "no"):
            yield name
    if "time-only" in element.attrib and element.attrib.keys() & {"tempo", "dynamics"}:
        yield "tempo or dynamics in some passes only"
    if any("time-only" in tie.attrib for tie in element.findall("tie")):
        yield "tie in some passes only"


def _to_partwise(root: Element) -> None:
    """Turn measures of parts into parts of measures, in place."""
    parts: dict[str, Element] = {}
    for measure in root.findall("measure"):
        root.remove(measure)
        for piece in measure.findall("part"):
            name = piece.get("id") or "P1"
            part = parts.setdefault(name, Element("part", {"id": name}))
            SubElement(part, "measure", measure.attrib).extend(list(piece))
    root.extend(parts.values())
    root.tag = "score-partwise"
