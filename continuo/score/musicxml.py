"""MusicXML files: checks before parsing, and the import into music21.

MusicXML arrives as plain XML in any encoding that expat knows, or zipped (.mxl). Its size (also after unzipping), its
depth and its entities are checked before music21 sees a byte. No entity is ever declared or fetched. The element tree
is then put into the form that music21 reads best:

- score-timewise becomes score-partwise;
- cue notes become rests, since another player sounds them;
- the signs that decide the order of the bars (words, glyphs, attributes of ``<sound>``) become hints;
- a chord stands together, <tied> without <tie> gets one;
- an unslashed grace note gets ``slash="no"``, because music21 takes a missing attribute for a slash;
- hairpins, pedal marks, the lengths of measures, the percussion keys and passes of notes, and arpeggios through several
  chords, which music21 would drop or move, become hints: words or footnotes that `read_hint` reads back.

Sources: MusicXML 4.0, https://www.w3.org/2021/06/musicxml40/ (elements sound, cue, note, chord, tied,
arpeggiate; compressed files).
"""

from __future__ import annotations

import codecs
import io
import os
import posixpath
import re
import unicodedata
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element, SubElement, TreeBuilder
from xml.parsers import expat

from continuo.score.playback import HINT, Playback, add_hint, number, prepare, silence
from continuo.score.repeats import MAX_BARS, passes, read_signs
from continuo.system.text import one_line

if TYPE_CHECKING:
    from music21.base import Music21Object
    from music21.stream import Score

MAX_FILE_BYTES = 32 * 2**20  # bytes of a file; the largest songs of OpenScore are 100 times smaller
MAX_XML_BYTES = 128 * 2**20  # bytes of XML text after unzipping
MAX_DEPTH = 48  # nested elements; MusicXML needs about 10
MAX_ELEMENTS = 3_000_000  # elements of a score; a symphony has about a million
MAX_BAR_Q = 10_000.0  # quarter notes of a bar
MAX_PASSES = 99  # times that a section is played
MAX_DOTS = 8  # dots of a note
MAX_COUNT = 128  # value of the elements and attributes below, to which music21 counts in steps of one
MULTIBYTE = {
    r"utf_?8|unicode": "utf-8", r"(windows-)?ansi": "cp1252", r"windows-874": "cp874", r"x-mac-roman": "mac_roman",
    r"(x-)?s(hift)?[_-]?jis|ms_kanji|windows-31j|cp932": "cp932", r"euc-?jp|x-euc-jp": "euc_jp",
    r"iso-2022-jp": "iso2022_jp", r"gb[_-]?2312(-80)?|gbk|gb18030|x-gbk|euc-?cn|cp936|windows-936": "gb18030",
    r"(x-)?euc-?kr|ks_?c_?5601(-1987|-1989)?|cp949|windows-949|uhc": "cp949", "johab": "johab",
    r"big-?5|cp950|windows-950": "cp950", r"big5-?hkscs": "big5hkscs",
}  # fmt: skip
"""Python codecs of encodings that expat does not know by patterns of their names (https://www.iana.org/assignments/character-sets)."""
COUNTED = frozenset({"fifths", "beats", "staves", "chromatic", "octave", "alter", "degree-alter"})
COUNTED_ATTRIBUTES = frozenset({("ending", "number"), ("repeat", "times")})
TIES = {"start": ("start",), "stop": ("stop",), "continue": ("stop", "start")}  # types of <tie> by type of <tied>
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


def parse_score(data: bytes) -> Score:
    """Return the music21 score, at sounding pitch, of a MusicXML file (plain or zipped); ValueError if it is none."""
    from music21.musicxml.xmlToM21 import MusicXMLImporter

    root = parse_xml(unzip(data) if data.startswith(b"PK") else data)
    playback = normalize(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importer = MusicXMLImporter()
            importer.xmlRootToScore(root, importer.stream)
            importer.stream.toSoundingPitch(inPlace=True)
    except Exception as error:  # music21 raises exceptions of any type on files that break the specification
        raise ValueError(f"not understood as MusicXML ({type(error).__name__}: {one_line(str(error))})") from None
    importer.stream.editorial["playback"] = playback
    return importer.stream


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


class _LimitedTreeBuilder(TreeBuilder):
    """A builder of element trees that raises ValueError above `MAX_DEPTH` or `MAX_ELEMENTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.count = 0

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} elements; no score is")
        if self.count > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements; split the score")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"declares the entity {name!r}; entities are refused for safety")


def parse_xml(data: bytes) -> Element:
    """Parse XML into an element tree; ValueError if it is ill-formed, too deep or large, or declares entities."""
    # Some exporters declare UTF-16 and write UTF-8. A declaration that is readable as single bytes is not UTF-16.
    declares_utf16 = re.match(rb"<\?xml[^>]*encoding=.utf-?16", data, re.IGNORECASE)
    builder = _LimitedTreeBuilder()
    data, is_decoded = _decode_multibyte(data)
    parser = expat.ParserCreate("utf-8" if declares_utf16 or is_decoded else None)
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"ill-formed XML ({error}); export the score again") from None
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"unknown or wrong text encoding ({one_line(str(error))})") from None
    return builder.close()


def _decode_multibyte(data: bytes) -> tuple[bytes, bool]:
    """Return XML in UTF-8 if it declares a multi-byte encoding that expat does not know, and whether it did.

    Raise ValueError for an encoding that Python does not know either, or for bytes that are not in it.
    """
    declared = re.match(rb"<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)", data)
    name = declared.group(1).decode().lower() if declared else "utf-8"
    if data.startswith(codecs.BOM_UTF8):
        return data, True
    for known, codec in MULTIBYTE.items():
        if re.fullmatch(known, name):
            try:
                return data.decode(codec).encode(), True
            except UnicodeError as error:
                raise ValueError(f"not in the encoding {name} that it declares ({one_line(str(error))})") from None
    return data, False


def normalize(root: Element) -> Playback:
    """Put a score into the form described above, in place; ValueError if it is none, empty, or exceeds a limit."""
    if root.tag == "score-timewise":
        _to_partwise(root)
    if root.tag == "opus":
        raise ValueError("an opus only lists other files; give one of its scores")
    if root.tag != "score-partwise":
        raise ValueError(f"not a MusicXML score (its root element is <{root.tag}>)")
    if root.find("part/measure") is None:
        raise ValueError("the score has no measures")
    _check_counts(root)
    signs = {part: _sign_hints(part.findall("measure")) for part in root.iterfind("part")}
    playback = prepare(root)
    for part in root.iterfind("part"):
        divisions = 1.0
        measures = part.findall("measure")
        for measure in measures:
            _gather_chords(measure)
        if len(measures) > MAX_BARS:
            raise ValueError(f"more than {MAX_BARS} bars; split the score")
        for i, measure in enumerate(measures):
            hint, divisions = _length_hint(measure, divisions)
            _normalize_measure(measure)
            for text in [hint] * bool(hint) + signs[part][i]:
                direction = Element("direction")
                SubElement(SubElement(direction, "direction-type"), "words").text = HINT + text
                measure.insert(0, direction)
    return playback


def _check_counts(root: Element) -> None:
    """Raise ValueError for numbers that keep music21 busy and that no score needs."""
    for element in root.iter():
        counts = [element.text or ""] if element.tag in COUNTED else []
        counts += [text for name, text in element.attrib.items() if (element.tag, name) in COUNTED_ATTRIBUTES]
        for text in counts:
            if len(text) > 400 or any(float(number) > MAX_COUNT for number in _NUMBERS.findall(text)):
                raise ValueError(f"<{element.tag}> holds {text[:20]!r}, and {MAX_COUNT} is the maximum; correct it")
        if element.tag == "note" and len(element.findall("dot")) > MAX_DOTS:
            raise ValueError(f"a note has more than {MAX_DOTS} dots; correct it")


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


def _length_hint(measure: Element, divisions: float) -> tuple[str, float]:
    """Return a hint with the length of a measure in quarter notes, and the divisions in force after it.

    The hint is ``length`` if a note, or a rest of a stated length, reaches the end, and ``rest`` if only bar-long rests
    do, to which some programs give the length of the meter in pick-up bars too. music21 keeps the exact length of such
    rests only without their type and measure attribute, so these are removed.
    """
    now_q = reach_q = rest_reach_q = 0.0
    for item in measure:
        if item.tag == "attributes":
            divisions = number(item.findtext("divisions")) or divisions
        if item.tag not in ("note", "backup", "forward"):
            continue
        length_q = (number(item.findtext("duration")) or 0.0) / divisions
        if not abs(length_q) <= MAX_BAR_Q or now_q > MAX_BAR_Q:
            raise ValueError(f"a bar has more than {MAX_BAR_Q:g} quarter notes; correct its durations or divisions")
        if item.find("chord") is not None:
            continue
        now_q = max(now_q - length_q, 0.0) if item.tag == "backup" else now_q + length_q
        rest = item.find("rest")
        if rest is not None and rest.get("measure") == "yes":
            del rest.attrib["measure"]
            _remove(item, "type")
            rest_reach_q = max(rest_reach_q, now_q)
        else:
            reach_q = max(reach_q, now_q)
    return (f"length={reach_q!r}" if reach_q else f"rest={rest_reach_q!r}" if rest_reach_q else ""), divisions


def _sign_hints(measures: list[Element]) -> list[list[str]]:
    """Return for each measure of a part the hints of the signs that decide the order of the bars."""
    found: list[list[str]] = [[] for _ in measures]
    for i, measure in enumerate(measures):
        for sign, is_ahead in read_signs(measure):
            hint = ";".join(f"{key}={quote(value)}" for key, value in sign.items())
            found[min(i + is_ahead, len(measures) - 1)].append(hint)
    return found


def read_sign(hint: dict[str, str]) -> dict[str, str]:
    """Return the arguments of `BarMarks.add` that stand in the hint of a sign."""
    return {key: unquote(value) for key, value in hint.items()}


def _normalize_measure(measure: Element) -> None:
    """Normalize the grace notes, cue notes and directions of one measure."""
    _mark_arpeggios(measure)
    for item in list(measure):
        if item.tag == "direction":
            _normalize_direction(item)
        elif item.tag == "note":
            _complete_ties(item)
            if only := passes(item.get("time-only", "")):
                add_hint(item, "only=" + ",".join(map(str, sorted(only))))
            for grace in item.findall("grace"):
                grace.attrib.setdefault("slash", "no")
            if item.find("cue") is not None:
                silence(measure, item)


def _gather_chords(measure: Element) -> None:
    """Move whatever stands between the notes of a chord to the place before the chord."""
    ordered: list[Element] = []
    begin = end = -1  # place of the first note of the latest chord, and the place after its last
    for item in measure:
        if item.tag == "note":
            if item.find("chord") is not None and begin >= 0:
                between = ordered[end:]
                del ordered[end:]
                ordered[begin:begin] = between
                begin += len(between)
            else:
                begin = len(ordered)
            end = len(ordered) + 1
        elif item.tag in ("backup", "forward"):
            begin = -1
        ordered.append(item)
    measure[:] = ordered


def _complete_ties(note: Element) -> None:
    """Give a note a <tie> for each <tied> that has none: some programs write only the sign."""
    kinds = {kind for tied in note.iterfind("notations/tied") for kind in TIES.get(tied.get("type", ""), ())}
    for kind in sorted(kinds - {tie.get("type") for tie in note.iterfind("tie")}):
        SubElement(note, "tie", {"type": kind})


def _mark_arpeggios(measure: Element) -> None:
    """Give the notes of arpeggios that pass through several chords a hint with their place: ``roll=PLACE/COUNT``.

    Chords that begin together are one arpeggio if their signs have one number, or if they say that it is unbroken.
    """
    found: dict[tuple[float, str], list[list[Element]]] = defaultdict(list)
    for position, chord in _chords(measure):
        signs = [sign for note in chord for sign in note.iterfind("notations/arpeggiate")]
        numbers = [sign.attrib.pop("number", "") for sign in signs]
        for sign in (sign for note in chord for sign in note.iterfind("notations/non-arpeggiate")):
            sign.attrib.pop("number", None)
        if signs and chord[0].find("grace") is None:
            is_unbroken = any(sign.get("unbroken") == "yes" for sign in signs)
            found[position, max(numbers) or ("unbroken" if is_unbroken else f"alone {len(found)}")].append(chord)
    for (position, name), chords in list(found.items()):
        if name.startswith("alone") and (position, "unbroken") in found:
            found[position, "unbroken"] += chords
    for chords in found.values():
        notes = sorted((note for chord in chords for note in chord if note.find("pitch") is not None), key=_height)
        signs = [sign for note in notes for sign in note.iterfind("notations/arpeggiate")]
        if len(chords) > 1:
            notes = notes[::-1] if any(sign.get("direction") == "down" for sign in signs) else notes
            for place, note in enumerate(notes):
                add_hint(note, f"roll={place}/{len(notes)}")


def _chords(measure: Element) -> list[tuple[float, list[Element]]]:
    """Return the chords of a measure, single notes too, each with its position in divisions."""
    found: list[tuple[float, list[Element]]] = []
    now = 0.0
    for item in measure:
        if item.tag not in ("note", "backup", "forward"):
            continue
        if item.tag == "note" and item.find("chord") is not None and found:
            found[-1][1].append(item)
            continue
        if item.tag == "note":
            found.append((now, [item]))
        text = (item.findtext("duration") or "").strip()
        length = float(text) if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit() else 0.0
        now += -length if item.tag == "backup" else length
    return found


def _height(note: Element) -> float:
    """Return a number that grows with the written pitch of a note."""
    octave = note.findtext("pitch/octave") or ""
    alter = (note.findtext("pitch/alter") or "0").strip()
    step = "C D EF G A B".find((note.findtext("pitch/step") or "C").strip())
    altered = float(alter) if alter.lstrip("+-").replace(".", "", 1).isdigit() else 0.0
    return 12 * (int(octave) if octave.strip().isdecimal() else 4) + step + altered


def _remove(element: Element, *tags: str) -> None:
    for tag in tags:
        for child in element.findall(tag):
            element.remove(child)


def _normalize_direction(direction: Element) -> None:
    """Turn hairpins, pedal and jumps of a direction into words, and prefer the tempo and dynamics in its <sound>."""
    for mark in direction.findall("direction-type/*"):
        hint = _spanning_hint(mark, direction)
        if hint:
            mark.clear()
            mark.tag, mark.text = "words", HINT + hint
    sound = direction.find("sound")
    if sound is not None and sound.get("tempo") is not None:
        for kind in direction.findall("direction-type"):
            _remove(kind, "metronome")
    for other in direction.findall("direction-type/dynamics/other-dynamics"):
        other.tag = "other-dynamic"  # music21's name for it
        if sound is not None and (percent := number(sound.get("dynamics"))) is not None:
            other.text = f"{HINT}velocity={round(percent * 0.9)}"


def _spanning_hint(mark: Element, direction: Element) -> str:
    """Return the hint for a hairpin, a pedal mark, or the dashes after "cresc."; "" for other marks."""
    kind, number = mark.get("type"), mark.get("number", "1")
    if mark.tag == "pedal" and kind in ("start", "stop", "change", "sostenuto", "resume", "discontinue"):
        return f"pedal={kind}"
    if mark.tag == "dashes":
        sign = loudness_direction(" ".join(e.text or "" for e in direction.iterfind("direction-type/words")))
        kind = {"start": ("", "crescendo", "diminuendo")[sign], "stop": "stop"}.get(kind or "", "")
        number = f"dashes{number}"
    is_hairpin = mark.tag in ("wedge", "dashes") and kind in ("crescendo", "diminuendo", "stop")
    return f"wedge={kind};number={number}" if is_hairpin else ""


def loudness_direction(text: str) -> int:
    """Return 1 for words that mean growing louder, -1 for softer, 0 for others.

    >>> loudness_direction("poco a poco cresc."), loudness_direction("rit. e dim."), loudness_direction("dolce")
    (1, -1, 0)
    """
    softer = re.search(r"(?i)\b(decresc|dim\b|dimin|smorz|morendo|calando|perdendo)", text)
    return 1 if re.search(r"(?i)\bcresc", text) else -1 if softer else 0


def read_hint(element: Music21Object) -> dict[str, str]:
    """Return the hint that `parse_score` left on a music21 note or in words, such as ``{"key": "38"}``; {} without."""
    texts = [str(getattr(element, "content", ""))]
    if getattr(element, "hasEditorialInformation", False):
        texts += [str(note.text) for note in element.editorial.get("footnotes", ())]
    hint = next((text.removeprefix(HINT) for text in texts if text.startswith(HINT)), "")
    return dict(pair.split("=", 1) for pair in hint.split(";")) if hint else {}
