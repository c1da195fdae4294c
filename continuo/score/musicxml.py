"""Files of written music: what is refused before it is parsed, and how the rest becomes a music21 score.

MusicXML arrives as plain XML in any encoding that expat knows, or zipped (.mxl). Three dangers are met before
music21 sees a byte: size (also after unzipping), nesting, and entities. No entity is ever declared or fetched.
The element tree is then put into the one form that music21 reads well:

- score-timewise becomes score-partwise;
- cue notes become rests (they are read by one player and sounded by another);
- jumps that are only in ``<sound>`` attributes (dacapo, dalsegno, tocoda, fine) become words;
- an unslashed grace note says so (music21 takes silence for a slash), hairpins and pedal marks become hints at their
  exact place, every measure says how long it is, and a note names its percussion key: see `read_hint`.

Sources: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (elements sound, cue, note; compressed files).
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, TreeBuilder
from xml.parsers import expat

if TYPE_CHECKING:
    from music21.stream import Score

MAX_FILE_BYTES = 32 * 2**20
"""Largest file that is opened. The largest songs of OpenScore are 100 times smaller."""
MAX_XML_BYTES = 128 * 2**20
"""Largest XML text after unzipping."""
MAX_DEPTH = 48
"""Deepest nesting of elements. MusicXML needs about 10."""
MAX_ELEMENTS = 3_000_000
"""Most elements of one score; a symphony has about a million."""
MAX_BARS = 20_000
"""Most bars of one part, and of one performance, repeats included."""
MAX_BAR_Q = 10_000.0
"""Most quarter notes of one bar."""
MAX_PASSES = 99
"""How often a section is played at most."""
LARGEST = {
    "fifths": 14, "cancel": 14, "key-octave": 12, "beats": 128, "beat-type": 1024, "staves": 16, "staff": 16,
    "staff-lines": 64, "line": 64, "clef-octave-change": 12, "octave": 12, "display-octave": 12, "octave-change": 12,
    "alter": 12, "key-alter": 12, "root-alter": 12, "bass-alter": 12, "degree-alter": 12, "degree-value": 64,
    "chromatic": 128, "diatonic": 128, "actual-notes": 1024, "normal-notes": 1024, "tremolo": 8, "divisions": 1e9,
    "multiple-rest": MAX_BARS, "measure-repeat": MAX_BARS, "string": 64, "fret": 128, "inversion": 16,
}  # fmt: skip
"""Largest number that each element may hold, either way: music21 counts up to some of them, note by note."""
MAX_ATTRIBUTES = {("ending", "number"): MAX_PASSES, ("repeat", "times"): 1000, ("octave-shift", "size"): 64}
"""The same of attributes."""
MAX_DOTS = 8
"""Most dots of a note."""

HINT = "continuo:"
"""How a footnote begins that carries what music21 would drop."""


def read_bytes(path: Path) -> bytes:
    """The file's content.

    Raises:
        ValueError: it is missing, a folder, unreadable, empty or larger than `MAX_FILE_BYTES`.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: neither a score nor a MIDI file; name one")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{path.name}: larger than {MAX_FILE_BYTES // 2**20} MiB; no score is")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not data.strip(b"\0 \r\n\t"):
        raise ValueError(f"{path.name}: the file is empty; export the score again")
    return data


def parse_score(data: bytes) -> Score:
    """A MusicXML file as a music21 score at sounding pitch.

    Args:
        data: the file's bytes, plain or zipped.

    Raises:
        ValueError: one line, for whatever is wrong with it.
    """
    root = parse_xml(unzip(data) if data.startswith(b"PK") else data)
    normalise(root)
    return _understand(root)


def _understand(root: Element) -> Score:
    """What music21 makes of an element tree."""
    from music21.musicxml.xmlToM21 import MusicXMLImporter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importer = MusicXMLImporter()
            importer.xmlRootToScore(root, importer.stream)
            importer.stream.toSoundingPitch(inPlace=True)
    except Exception as error:  # music21 raises anything on files that are out of specification
        raise ValueError(f"not understood as MusicXML ({type(error).__name__}: {one_line(error)})") from None
    return importer.stream


def one_line(error: Exception) -> str:
    """An exception's message without line breaks, shortened to 200 characters."""
    return " ".join(str(error).split())[:200]


def unzip(data: bytes) -> bytes:
    """The score inside a compressed MusicXML file: the container's first root file, or else its first XML member.

    Raises:
        ValueError: not a zip, damaged, encrypted, without a score, or larger than `MAX_XML_BYTES` unzipped.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            wanted = _root_file(archive) if "META-INF/container.xml" in names else None
            scores = [n for n in names if n.lower().endswith((".musicxml", ".xml")) and not n.startswith("META-INF")]
            if wanted not in names:
                wanted = next((n for n in scores if "__MACOSX" not in n), None)
            if wanted is None:
                raise ValueError("the archive holds no MusicXML score")
            return _member(archive, wanted)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not a readable .mxl archive ({one_line(error)})") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member, refused when it unpacks to more than `MAX_XML_BYTES` whatever its header says."""
    with archive.open(name) as stream:
        data = stream.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"unpacks to more than {MAX_XML_BYTES // 2**20} MiB; this is no ordinary score")
    return data


def _root_file(archive: zipfile.ZipFile) -> str | None:
    """The path that META-INF/container.xml names: the first root file of a MusicXML type, or the first of all."""
    try:
        container = parse_xml(_member(archive, "META-INF/container.xml"))
    except ValueError:
        return None
    files = [e for e in container.iter() if e.tag.rpartition(":")[2] == "rootfile"]
    typed = [e for e in files if "musicxml" in (e.get("media-type") or "")]
    return next((e.get("full-path") for e in typed + files), None)


def parse_xml(data: bytes) -> Element:
    """An element tree, built under guard.

    Raises:
        ValueError: ill-formed, too deep, too many elements, or declaring entities.
    """
    builder, depth, count = TreeBuilder(), 0, 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} elements; no score is")
        if count > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements; split the score")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse_entity(name: str, *_: object) -> None:
        raise ValueError(f"declares the entity {name!r}; entities are refused for safety")

    # Some exporters say UTF-16 and write UTF-8: what can be read as single bytes is no UTF-16.
    says_utf16 = re.match(rb"<\?xml[^>]*encoding=.utf-?16", data, re.IGNORECASE)
    parser = expat.ParserCreate("utf-8" if says_utf16 else None)
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"ill-formed XML ({error}); export the score again") from None
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"unknown or wrong text encoding ({one_line(error)})") from None
    return builder.close()


def normalise(root: Element) -> None:
    """Rewrite a score in place into the form described at the top of this module.

    Raises:
        ValueError: the root is not a MusicXML score, or the score has no part or no measure.
    """
    if root.tag == "score-timewise":
        _to_partwise(root)
    if root.tag == "opus":
        raise ValueError("an opus only lists other files; give one of its scores")
    if root.tag != "score-partwise":
        raise ValueError(f"not a MusicXML score (its root element is <{root.tag}>)")
    if root.find("part/measure") is None:
        raise ValueError("the score has no measures")
    _check_numbers(root)
    keys = _percussion_keys(root)
    for part in root.iterfind("part"):
        divisions = 1.0
        if len(part.findall("measure")) > MAX_BARS:
            raise ValueError(f"more than {MAX_BARS} bars; split the score")
        for measure in part.iterfind("measure"):
            hint, divisions = _length(measure, divisions)
            _normalise_measure(measure, keys)
            if hint:
                measure.insert(0, _hint_direction(hint))


_NUMBERS = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)


def _check_numbers(root: Element) -> None:
    """Refuse numbers that no score needs.

    Raises:
        ValueError: one is larger than `LARGEST` or `MAX_ATTRIBUTES` have it, or a note has more than `MAX_DOTS`.
    """
    for element in root.iter():
        most = LARGEST.get(element.tag)
        if most is not None and element.text:
            _check_number(element.tag, element.text, most)
        for name in element.attrib:
            if (most := MAX_ATTRIBUTES.get((element.tag, name))) is not None:
                _check_number(f"{element.tag} {name}=", element.attrib[name], most)
        if element.tag == "note" and len(element.findall("dot")) > MAX_DOTS:
            raise ValueError(f"a note has more than {MAX_DOTS} dots; correct it")


def _check_number(name: str, text: str, most: float) -> None:
    if len(text) > 400 or any(float(number) > most for number in _NUMBERS.findall(text)):
        raise ValueError(f"<{name}> says {text[:20]!r}, and {most:g} is the most that a score needs; correct it")


def _hint_direction(hint: str) -> Element:
    """Words that only `continuo.score.interpretation` reads, at the place where they are inserted."""
    direction = Element("direction")
    SubElement(SubElement(direction, "direction-type"), "words").text = HINT + hint
    return direction


def _length(measure: Element, divisions: float) -> tuple[str, float]:
    """How many quarter notes a measure's notes, rests and gaps reach, as a hint, and the divisions in force after it.

    Rests that fill a measure are told apart: some programs give them the metre's length in pick-up bars too.
    Their exact length survives music21 only without type and measure attribute, so these are taken off.
    """
    now = reach = rest_reach = 0.0
    for item in measure:
        if item.tag == "attributes":
            divisions = _number(item.findtext("divisions")) or divisions
        if item.tag not in ("note", "backup", "forward"):
            continue
        length_q = (_number(item.findtext("duration")) or 0.0) / divisions
        if not abs(length_q) <= MAX_BAR_Q or now > MAX_BAR_Q:
            raise ValueError(f"a bar has more than {MAX_BAR_Q:g} quarter notes; correct its durations or divisions")
        if item.find("chord") is not None:
            continue
        now = max(now - length_q, 0.0) if item.tag == "backup" else now + length_q
        rest = item.find("rest")
        if rest is not None and rest.get("measure") == "yes":
            del rest.attrib["measure"]
            for kind in item.findall("type"):
                item.remove(kind)
            rest_reach = max(rest_reach, now)
        else:
            reach = max(reach, now)
    return (f"length={reach!r}" if reach else f"rest={rest_reach!r}" if rest_reach else ""), divisions


def _to_partwise(root: Element) -> None:
    """Turn measures of parts into parts of measures."""
    parts: dict[str, Element] = {}
    for measure in root.findall("measure"):
        root.remove(measure)
        for piece in measure.findall("part"):
            name = piece.get("id") or "P1"
            part = parts.setdefault(name, Element("part", {"id": name}))
            SubElement(part, "measure", measure.attrib).extend(list(piece))
    root.extend(parts.values())
    root.tag = "score-partwise"


def _percussion_keys(root: Element) -> dict[str, int]:
    """General MIDI key (0-127) of every score-instrument that states one in midi-unpitched (1-128)."""
    keys: dict[str, int] = {}
    for instrument in root.iterfind("part-list/score-part/midi-instrument"):
        text = (instrument.findtext("midi-unpitched") or "").strip()
        if text.isdigit() and 1 <= int(text) <= 128:
            keys[instrument.get("id") or ""] = int(text) - 1
    return keys


def _normalise_measure(measure: Element, keys: dict[str, int]) -> None:
    """Cue notes, jump attributes and note hints of one measure."""
    for item in list(measure):
        if item.tag == "note":
            grace = item.find("grace")
            if grace is not None and grace.get("slash") is None:
                grace.set("slash", "no")
            if item.find("cue") is not None:
                _silence(measure, item)
            elif item.find("unpitched") is not None:
                used = item.find("instrument")
                key = keys.get(used.get("id") or "") if used is not None else None
                if key is not None:
                    SubElement(item, "footnote").text = f"{HINT}key={key}"
        elif item.tag == "direction":
            _normalise_direction(item)


def _normalise_direction(direction: Element) -> None:
    """Hairpins and pedal become hints at their exact place; where <sound> states a tempo, only that is kept."""
    for kind in direction.findall("direction-type"):
        for mark in list(kind):
            hint = _spanning_hint(mark, direction)
            if hint:
                mark.clear()
                mark.tag, mark.text = "words", HINT + hint
    sound = direction.find("sound")
    if sound is None:
        return
    if sound.get("tempo") is not None:
        for kind in direction.findall("direction-type"):
            for metronome in kind.findall("metronome"):
                kind.remove(metronome)
    for other in direction.findall("direction-type/dynamics/other-dynamics"):
        other.tag = "other-dynamic"  # music21's name for it
        if (percent := _number(sound.get("dynamics"))) is not None:
            other.text = f"{HINT}velocity={round(percent * 0.9)}"
    if direction.find("direction-type/words") is None:
        for attribute, words in _JUMPS.items():
            if sound.get(attribute) not in (None, "no"):
                SubElement(SubElement(direction, "direction-type"), "words").text = words


def _spanning_hint(mark: Element, direction: Element) -> str:
    """The hint for a hairpin, a pedal mark, or the dashes after "cresc."; "" for anything else."""
    number = mark.get("number", "1")
    if mark.tag == "wedge" and mark.get("type") in ("crescendo", "diminuendo", "stop"):
        return f"wedge={mark.get('type')};number={number}"
    if mark.tag == "pedal" and mark.get("type") in ("start", "stop", "change", "sostenuto", "resume", "discontinue"):
        return f"pedal={mark.get('type')}"
    if mark.tag == "dashes" and mark.get("type") == "stop":
        return f"wedge=stop;number=dashes{number}"
    if mark.tag == "dashes" and mark.get("type") == "start":
        sign = loudness_words(" ".join(e.text or "" for e in direction.iterfind("direction-type/words")))
        if sign:
            return f"wedge={'crescendo' if sign > 0 else 'diminuendo'};number=dashes{number}"
    return ""


def loudness_words(text: str) -> int:
    """1 for words that mean growing louder, -1 for softer, 0 for others.

    >>> loudness_words("poco a poco cresc."), loudness_words("rit. e dim."), loudness_words("dolce")
    (1, -1, 0)
    """
    if re.search(r"\bcresc", text, re.IGNORECASE):
        return 1
    return -1 if re.search(r"\b(decresc|dim\b|dimin|smorz|morendo|calando|perdendo)", text, re.IGNORECASE) else 0


def _number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _silence(measure: Element, note: Element) -> None:
    """Make a cue note a rest; a cue grace note or a second note of a cue chord disappears."""
    if note.find("grace") is not None or note.find("chord") is not None:
        measure.remove(note)
        return
    for tag in ("cue", "pitch", "unpitched", "tie", "notations", "beam", "lyric", "notehead", "accidental", "stem"):
        for child in note.findall(tag):
            note.remove(child)
    note.insert(0, Element("rest"))


_JUMPS = {"dacapo": "Da Capo", "dalsegno": "Dal Segno", "tocoda": "To Coda", "fine": "Fine"}


def read_hint(element: Any) -> dict[str, str]:
    """What `parse_score` kept about a music21 note, or put in words at a place, such as ``{"key": "38"}``."""
    text = str(getattr(element, "content", ""))
    if not text.startswith(HINT) and getattr(element, "hasEditorialInformation", False):
        notes = [str(note.text) for note in element.editorial.get("footnotes", ())]
        text = next((note for note in notes if note.startswith(HINT)), "")
    if not text.startswith(HINT):
        return {}
    return dict(pair.split("=", 1) for pair in text.removeprefix(HINT).split(";"))


def at_sounding_pitch(score: Score) -> Score:
    """The score with transposing parts as they sound; it stays as it was."""
    if score.atSoundingPitch is False or any(part.atSoundingPitch is False for part in score.parts):
        return score.toSoundingPitch(inPlace=False)
    return score


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a ValueError of one line that begins with the file's name.

    A score beyond what was thought of is named too, so that the next one is read. CONTINUO_DEBUG lets its error
    through.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(error)}") from None
    except Exception as error:
        if os.environ.get("CONTINUO_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{name}: {what} ({reason}); CONTINUO_DEBUG=1 shows where") from error
