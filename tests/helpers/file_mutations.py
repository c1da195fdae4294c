"""Change files at random: bytes, numbers, elements, events, chunks, keys. Results may be invalid."""

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any
from xml.etree import ElementTree

HOSTILE_NUMBERS = [
    "0", "-1", "1", "2", "7", "127", "128", "255", "256", "-32768", "65535", "99999", "1000000", "2147483648",
    "1000000000", "-1000000000", "18446744073709551616", "1e308", "1e-308", "1e999", "nan", "-inf", "0.5", "1/3",
    "1-1000000000", "9" * 5000, "", " ", "٣", "1_000",
]  # fmt: skip
HOSTILE_WORDS = ["\u202e", "\x1b[31m", "a\nb", "../../etc/passwd", "$x^{$", "[/red]", "<b>", "A" * 3000, "\ufffe", "🎼"]
HOSTILE_JSON: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**9, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e-300, 1e300, "", "0", "null",
    [], {}, [[]], [1], {"kind": "lstm"}, {"a": {"b": 1}}, "\x00", "\ud800", "../up.safetensors", "/etc/passwd",
    "(a+)+$", "((", "A" * 5000, [0] * 2000,
]  # fmt: skip
HOSTILE_BYTES = [bytes([byte]) for byte in (0, 0x7F, 0x80, 0xFF)] + [
    bytes([first, *[rest] * 3]) for first, rest in ((0, 0), (255, 255), (127, 255), (128, 0))
]


def mutate_bytes(data: bytes, rng: Random, head: int = 0) -> bytes:
    """Make 1 to 16 changes to bytes, half of them among the first `head` bytes if given."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        until = min(head, len(data)) if head and rng.random() < 0.5 else len(data)
        at = rng.randrange(until)
        span = rng.choice([1, 2, 4, 16, 256])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + span] = rng.randbytes(span)
        elif kind == 2:
            word = rng.choice(HOSTILE_BYTES)
            data[at : at + len(word)] = word
        elif kind == 3:
            del data[at : at + span]
        elif kind == 4:
            data[at:at] = data[at : at + span] * rng.choice([1, 1, 50])
        elif kind == 5:
            data[at:at] = rng.randbytes(span)
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def mutate_numbers(data: bytes, rng: Random) -> bytes:
    """Replace some numbers of a text by hostile ones."""
    places = [match.span() for match in re.finditer(rb"(?<![\w.])-?\d+(?:\.\d+)?", data)]
    for start, stop in sorted(rng.sample(places, min(rng.choice([1, 1, 3, 20]), len(places))), reverse=True):
        data = data[:start] + rng.choice(HOSTILE_NUMBERS).encode() + data[stop:]
    return data


def shortened(data: bytes, bars: int = 4) -> bytes:
    """Return the first bars of every part of a MusicXML text, so that a case takes little time."""
    root = ElementTree.fromstring(data)
    for part in root.iter("part"):
        for measure in part.findall("measure")[bars:]:
            part.remove(measure)
    return ElementTree.tostring(root)


def mutate_xml(data: bytes, rng: Random) -> bytes:
    """Remove, repeat, move and rename elements, and change their texts and attributes."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return mutate_bytes(data, rng)
    tags = sorted({element.tag for element in root.iter()})
    for _ in range(rng.choice([1, 2, 4, 12])):
        parents = [element for element in root.iter() if len(element)]
        if not parents:
            break
        parent = rng.choice(parents)
        at = rng.randrange(len(parent))
        kind = rng.randrange(9)
        if kind == 0:
            del parent[at]
        elif kind == 1:
            for _ in range(rng.choice([1, 1, 3, 30])):
                parent.insert(at, deepcopy(parent[at]))
        elif kind == 2:
            other = rng.choice(parents)
            other.insert(rng.randrange(len(other) + 1), deepcopy(parent[at]))
        elif kind == 3:
            parent[at].tag = rng.choice(tags)
        elif kind == 4:
            parent[:] = rng.sample(list(parent), len(parent))
        elif kind == 5:
            texts = [element for element in root.iter() if (element.text or "").strip()]
            if texts:
                rng.choice(texts).text = rng.choice(HOSTILE_NUMBERS + HOSTILE_WORDS).replace("\x1b", "")
        elif kind == 6:
            attributed = [element for element in root.iter() if element.attrib]
            if attributed:
                element = rng.choice(attributed)
                element.set(rng.choice(sorted(element.attrib)), rng.choice(HOSTILE_NUMBERS).replace("\x1b", ""))
        elif kind == 7:
            parent[at].clear()
        else:
            numbers = [element for element in root.iter() if re.fullmatch(r"-?[\d.]+", (element.text or "").strip())]
            if numbers:
                rng.choice(numbers).text = rng.choice(HOSTILE_NUMBERS)
    return ElementTree.tostring(root)


def zipped(xml: bytes, name: str = "score.musicxml") -> bytes:
    """Return a compressed MusicXML file."""
    container = f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", container)
        archive.writestr(name, xml)
    return buffer.getvalue()


def mutate_score(data: bytes, rng: Random) -> bytes:
    """Change a MusicXML text, or an archive or the text in it."""
    is_zip = data.startswith(b"PK")
    if is_zip and rng.random() < 0.15:
        return mutate_bytes(data, rng)
    if is_zip:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.endswith(("xml",)) and not name.startswith("META")]
            data = archive.read(names[0])
    with contextlib.suppress(ElementTree.ParseError):
        data = shortened(data, rng.choice([2, 4, 8]))
    changed = rng.choices([mutate_xml, mutate_numbers, mutate_bytes], [5, 3, 2])[0](data, rng)
    return zipped(changed) if is_zip or rng.random() < 0.1 else changed


def mutate_midi(data: bytes, rng: Random) -> bytes:
    """Change events and header of a MIDI file and correct the lengths of its tracks, or change its bytes."""
    if rng.random() < 0.35 or data[:4] != b"MThd":
        return mutate_bytes(data, rng, head=40)
    header, rest, tracks = bytearray(data[:14]), data[14:], []
    while len(rest) >= 8:
        length = int.from_bytes(rest[4:8])
        tracks.append(bytearray(rest[8 : 8 + length]))
        rest = rest[8 + length :]
    if rng.random() < 0.3:
        header[12:14] = rng.choice([b"\x00\x00", b"\x00\x01", b"\x7f\xff", b"\xe7\x28", b"\x80\x00", b"\xff\xff"])
    if rng.random() < 0.2:
        header[8:10] = bytes([0, rng.randrange(4)])
    events = [
        b"\xff\x51\x03\x00\x00\x00", b"\xff\x51\x03\xff\xff\xff", b"\xff\x51\x03\x00\x00\x01",
        b"\xff\x58\x04\x01\x0a\x18\x08",
        b"\xff\x58\x04\x00\x02\x18\x08", b"\xff\x58\x04\x04\xff\x18\x08", b"\xff\x59\x02\x7f\x00", b"\xff\x2f\x00",
        b"\xf0\x05\x01\x02\x03\x04\xf7", b"\xff\x01\x04\xff\xfe\x1b[", b"\xe0\x7f\x7f", b"\xb0\x40\x7f", b"\xc0\x7f",
        b"\x90\x3c\x7f", b"\x80\x3c\x00", b"\x99\x7f\x01", b"\xff\x54\x05\x00\x00\x00\x00\x00", b"\xff\x7f\x00",
    ]  # fmt: skip
    deltas = [b"\x00", b"\x60", b"\x83\x60", b"\xff\x7f", b"\xff\xff\x7f", b"\xff\xff\xff\x7f"]
    for _ in range(rng.choice([1, 2, 5, 20])):
        track = rng.choice(tracks) if tracks else None
        if not track:
            break
        at = rng.randrange(len(track))
        kind = rng.randrange(4)
        if kind == 0:
            at = 0 if rng.random() < 0.6 else at
            track[at:at] = rng.choice(deltas) + rng.choice(events)
        elif kind == 1:
            track[at] = rng.randrange(256)
        elif kind == 2:
            span = rng.randrange(1, 64)
            track[at:at] = track[at : at + span] * rng.choice([1, 3, 40])
        else:
            track[at : at + 1] = rng.choice(deltas)
    if rng.random() < 0.1:
        tracks = tracks * 8
    header[10:12] = len(tracks).to_bytes(2)
    body = b"".join(b"MTrk" + len(track).to_bytes(4) + bytes(track) for track in tracks)
    return bytes(header) + body


def mutate_json(value: Any, rng: Random) -> Any:
    """Replace, remove, add or move some parts of a JSON value."""
    value = deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 5])):
        places = list(_places(value))
        if not places:
            return rng.choice(HOSTILE_JSON)
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind <= 2:
            holder[key] = deepcopy(rng.choice(HOSTILE_JSON))
        elif kind == 3:
            del holder[key]
        elif kind == 4:
            other, where = rng.choice(places)
            holder[key] = deepcopy(other[where]) if _has(other, where) else None
        elif isinstance(holder, dict):
            holder[rng.choice(["kind", "hidden", "x", "\x1b[2J", "a\nb", "K" * 3000])] = rng.choice(HOSTILE_JSON)
        else:
            holder.append(rng.choice(HOSTILE_JSON))
    return value


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def mutate_metadata(data: bytes, rng: Random) -> bytes:
    """Change the keys and values of a metadata file, or its text."""
    change: Callable[..., bytes] = rng.choices([mutate_bytes, mutate_numbers, mutate_bytes], [1, 1, 0])[0]
    if rng.random() < 0.75:
        return json.dumps(mutate_json(json.loads(data), rng)).encode()
    return change(data, rng)


def mutate_state(data: bytes, rng: Random) -> bytes:
    """Change the bytes of a safetensors file, its header, or the facts in it."""
    length = int.from_bytes(data[:8], "little")
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(data, rng, head=8 + length)
    if kind == 1:
        said = rng.choice([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1, len(data)])
        return said.to_bytes(8, "little") + data[8:]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 2:
        body = mutate_bytes(body, rng)[: len(body)].ljust(len(body), b"\0")
    elif kind == 3:
        names = [name for name in header if name != "__metadata__"]
        for name in rng.sample(names, min(rng.choice([1, 3, 10]), len(names))):
            header[name] = _another_tensor(header[name], rng)
    elif kind == 4:
        header = mutate_json(header, rng)
    else:
        facts = mutate_json(json.loads(header["__metadata__"]["facts"]), rng)
        header["__metadata__"]["facts"] = json.dumps(facts)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _another_tensor(entry: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Return the header entry of a tensor of another shape or type over the same bytes."""
    start, stop = entry["data_offsets"]
    sizes = {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8, "F64": 8}
    kind = rng.choice([name for name, size in sizes.items() if (stop - start) % size == 0])
    count = (stop - start) // sizes[kind]
    shape = rng.choice([[count], [1, count], [count, 1], [1, 1, count], entry["shape"], entry["shape"][::-1]])
    return entry | {"dtype": kind, "shape": shape}
