"""SoundFonts put into the form that symusic's synthesiser plays in tune and in balance.

symusic 0.5.9 misreads three things. It ignores overridingRootKey and takes each sample's own root key instead: in
fonts that use it (TimGM6mb does for its piano and strings) notes sound up to two octaves off. It takes
initialAttenuation for thousandths of the amplitude instead of centibels. And it rounds loops to whole samples of its
output: a loop of one period, as most are, is up to 40 cents off at 24 kHz. `in_tune` writes a copy of the font that
sounds as meant: every zone that overrides the root key or moves its sample's loop gets a sample header of its own that
says so, every attenuation is rewritten, and short loops are written out many times over, which sounds the same. Samples
that their font itself plays out of tune (TimGM6mb's flute at F5 by 15 cents) are put right: what a loop holds is
exactly periodic, so its pitch is known.

Source: SoundFont Technical Specification 2.04, sections 7.8 to 7.10 and 8.1.2 (generators 0 to 4, 12, 45, 48, 50, 53
and 58). Players agree that the centibels of generator 48 count 0.4, as on the hardware the format comes from.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from continuo.system.files import atomic_write

KEY_RANGE, VELOCITY_RANGE = 43, 44
ATTENUATION = 48
TUNES = ((51, 100), (52, 1))
"""Coarse and fine tuning, and their cents."""
SAMPLE_ID = 53
OVERRIDING_ROOT_KEY = 58
ATTENUATION_SHARE = 0.4
OFFSETS = {0: (1, 1), 4: (1, 32768), 1: (2, 1), 12: (2, 32768), 2: (3, 1), 45: (3, 32768), 3: (4, 1), 50: (4, 32768)}
"""Generators that move a sample's ends or loop: the field of its header, and how many samples they count."""
MIN_LOOP_S = 0.25
"""A rounded sample is then less than half a cent at 24 kHz."""
APART = 46
"""Samples of silence that the format wants after each sample."""
COMPRESSED, ROM = 0x10, 0x8000
"""Types of samples that are left alone: Ogg Vorbis (.sf3), and those of a chip."""
MAX_BYTES = 512 << 20
"""Of a font."""
MAX_ZONES = 4096
"""Of an instrument."""
MAX_LOOP = 1 << 20
"""Samples of a loop that is tuned."""
MAX_GROWN = 4
"""How many times the sample data may be used: by samples that share it."""
MAX_WRONG = 60
"""Cents; what is further off is meant."""
MIN_PERIODIC = 0.6
"""Share of a loop's energy that must lie on the harmonics of one pitch."""
_HEADER = struct.Struct("<20sIIIIIBbHH")  # one sample: name, start, end, loop, loop end, rate, root key, ...
_BAG = struct.Struct("<HH")
_GENERATOR = struct.Struct("<HH")


def is_soundfont(path: Path) -> bool:
    """Whether a file begins as a RIFF file of type sfbk."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:] == b"sfbk"


def in_tune(font: Path, folder: Path) -> Path:
    """A copy of a font, kept in `folder`, that symusic plays as the font is meant.

    Raises:
        ValueError: the font is damaged.
        OSError: the folder cannot be written.
    """
    stamp = font.stat()
    name = f"{font.resolve()}|{stamp.st_size}|{stamp.st_mtime_ns}|5"
    if stamp.st_size > MAX_BYTES:
        raise ValueError(f"the SoundFont {font} is larger than {MAX_BYTES >> 20} MiB: choose a smaller one")
    target = folder / f"{font.stem}-{hashlib.sha256(name.encode()).hexdigest()[:16]}{font.suffix}"
    if target.exists():
        return target
    data = font.read_bytes()
    try:
        repaired = repair(data)
    except (struct.error, IndexError, KeyError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"the SoundFont {font} is damaged ({type(error).__name__}): get it again, or name another"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        temporary.write_bytes(repaired)
    return target


def repair(data: bytes) -> bytes:
    """The bytes of a SoundFont with root keys and loops in sample headers, and attenuations as symusic takes them.

    Raises:
        struct.error, IndexError, KeyError: it is cut off or its tables point nowhere.
    """
    lists = dict(_chunks(data, 12, len(data)))
    tables, samples = _members(data, *lists[b"pdta"]), _members(data, *lists[b"sdta"])
    headers, tables[b"igen"] = _own_headers(tables, np.frombuffer(samples[b"smpl"], "<i2", len(samples[b"smpl"]) // 2))
    headers, samples[b"smpl"] = _long_loops(headers, samples[b"smpl"])
    samples.pop(b"sm24", None)  # the low bytes of 24-bit samples, which symusic does not read
    tables[b"shdr"] = b"".join(_HEADER.pack(*header) for header in headers) + tables[b"shdr"][-_HEADER.size :]
    tables[b"igen"] = _amplitudes(tables[b"igen"])
    info = data[lists[b"INFO"][0] : sum(lists[b"INFO"])]
    body = b"sfbk" + _list(b"INFO", info) + _list(b"sdta", _joined(samples)) + _list(b"pdta", _joined(tables))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _members(data: bytes, begin: int, size: int) -> dict[bytes, bytes]:
    return {name: data[at : at + length] for name, (at, length) in _chunks(data, begin, begin + size)}


def _joined(members: dict[bytes, bytes]) -> bytes:
    parts = ((name, struct.pack("<I", len(part)), part, bytes(len(part) % 2)) for name, part in members.items())
    return b"".join(itertools.chain.from_iterable(parts))


def _list(name: bytes, body: bytes) -> bytes:
    return b"LIST" + struct.pack("<I", len(body) + 4) + name + body + bytes(len(body) % 2)


def _chunks(data: bytes, at: int, end: int) -> list[tuple[bytes, tuple[int, int]]]:
    """Name, place and length of each chunk; a LIST goes by its type, its place is after it."""
    found = []
    while at + 8 <= end:
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"LIST":
            found.append((data[at + 8 : at + 12], (at + 12, size - 4)))
        else:
            found.append((name, (at + 8, size)))
        at += 8 + size + size % 2
    return found


Header = tuple[bytes, int, int, int, int, int, int, int, int, int]


def _own_headers(tables: dict[bytes, bytes], pcm: np.ndarray) -> tuple[list[Header], bytes]:
    """Sample headers (without the last, which ends the table), one more for each zone that changes its sample's.

    Zones that sound alone are tuned; those that sound together may be apart on purpose, as an accordion's reeds are.

    Also returns the generators, which then point to them and change nothing themselves.
    """
    headers: list[Header] = list(_HEADER.iter_unpack(tables[b"shdr"]))[:-1]
    generators: list[list[int]] = [list(pair) for pair in _GENERATOR.iter_unpack(tables[b"igen"])]
    first = [struct.unpack_from("<H", tables[b"inst"], at + 20)[0] for at in range(0, len(tables[b"inst"]), 22)]
    bags = [bag[0] for bag in _BAG.iter_unpack(tables[b"ibag"])]
    known = {header: number for number, header in enumerate(headers)}
    if sorted(first) != first or sorted(bags) != bags:
        raise IndexError("zones go backwards")
    for zone_from, zone_to in itertools.pairwise(first):
        if zone_to - zone_from > MAX_ZONES:
            raise IndexError("too many zones")
        common: dict[int, int] = {}  # what the instrument's global zone says for all
        merged: list[tuple[int, dict[int, int]]] = []
        for zone in range(zone_from, zone_to):
            mine = {kind: amount for kind, amount in generators[bags[zone] : bags[zone + 1]]}  # noqa: C416 (lists)
            if SAMPLE_ID not in mine:
                common = mine if zone == zone_from else common
                continue
            merged.append((zone, common | mine))
        for zone, whole in merged:
            header = _changed(headers[whole[SAMPLE_ID]], whole)
            if not any(_overlap(whole, other) for _, other in merged if other is not whole):
                header = _tuned(header, whole, pcm)
            if header not in known:
                known[header] = len(headers)
                headers.append(header)
            for pair in generators[bags[zone] : bags[zone + 1]]:
                if pair[0] == SAMPLE_ID:
                    pair[1] = known[header]
    for pair in generators:
        if pair[0] in OFFSETS:
            pair[1] = 0
    return headers, b"".join(_GENERATOR.pack(*pair) for pair in generators)


def _changed(header: Header, generators: dict[int, int]) -> Header:
    """A sample header with what a zone's generators say about root key, ends and loop."""
    fields: list[Any] = list(header)
    if generators.get(OVERRIDING_ROOT_KEY, 128) <= 127:
        fields[6] = generators[OVERRIDING_ROOT_KEY]
    for kind, (field, unit) in OFFSETS.items():
        amount = generators.get(kind, 0)
        fields[field] = max(fields[field] + unit * (amount - (amount >> 15 << 16)), 0)
    return tuple(fields)


def _overlap(a: dict[int, int], b: dict[int, int]) -> bool:
    """Whether a key can sound both zones."""
    ranges = ((zone.get(kind, 127 << 8) for zone in (a, b)) for kind in (KEY_RANGE, VELOCITY_RANGE))
    return all(max(x & 255, y & 255) <= min(x >> 8, y >> 8) for x, y in ranges)


def _tuned(header: Header, generators: dict[int, int], pcm: np.ndarray) -> Header:
    """A sample header whose pitch correction makes the loop sound at its root key, where its pitch is beyond doubt."""
    start, end, loop, loop_end, rate, root, correction = header[1:8]
    if not (start <= loop < loop_end <= end <= len(pcm)) or header[-1] & (COMPRESSED | ROM) or not rate:
        return header
    if loop_end - loop > MAX_LOOP:
        return header
    fine = sum(unit * ((n := generators.get(kind, 0)) - (n >> 15 << 16)) for kind, unit in TUNES)
    wanted = 440 * 2 ** ((root - 69 - (correction + fine) / 100) / 12) * (loop_end - loop) / rate  # periods in the loop
    energy = np.abs(np.fft.rfft(pcm[loop:loop_end].astype(np.float32)))[1:] ** 2
    nearest = range(max(round(wanted * 2 ** (-MAX_WRONG / 1200)), 1), round(wanted * 2 ** (MAX_WRONG / 1200)) + 1)
    periods = max(nearest, key=lambda n: energy[n - 1 :: n].sum() - energy.sum() / n, default=0)
    if not periods or energy[periods - 1 :: periods].sum() < MIN_PERIODIC * energy.sum():
        return header
    cents = 1200 * math.log2(periods / wanted)
    if abs(cents) > MAX_WRONG or not -99 <= correction - cents <= 99:
        return header
    return (*header[:7], round(correction - cents), *header[8:])


def _long_loops(headers: list[Header], samples: bytes) -> tuple[list[Header], bytes]:
    """Sample data with every loop repeated until it lasts `MIN_LOOP_S`, and headers that point into them."""
    if any(header[-1] & (COMPRESSED | ROM) for header in headers):
        return headers, samples
    pcm = np.frombuffer(samples[: len(samples) // 2 * 2], "<i2")
    moved: list[Header] = []
    places: dict[tuple[int, ...], tuple[int, int]] = {}  # of each sample and loop: where it is now, how much longer
    parts: list[np.ndarray] = []
    length = copied = 0
    for header in headers:
        name, start, end, loop, loop_end, rate = header[:6]
        if header[1:5] not in places:
            again = np.zeros(0, "<i2")
            if start <= loop < loop_end <= end <= len(pcm):
                least = MIN_LOOP_S * min(rate, 192_000)
                again = np.tile(pcm[loop:loop_end], max(math.ceil(least / (loop_end - loop)) - 1, 0))
            middle = min(max(loop_end, start), end)
            parts.append(np.concatenate([pcm[start:middle], again, pcm[middle:end], np.zeros(APART, "<i2")]))
            places[header[1:5]] = length, len(again)
            length += len(parts[-1])
            copied += max(end - start, 0)
            if copied > MAX_GROWN * len(pcm) or length > MAX_BYTES:
                raise IndexError("samples lie over each other")
        place, more = places[header[1:5]]
        shift = place - start
        moved.append((name, place, end + shift + more, loop + shift, loop_end + shift + more, rate, *header[6:]))
    return moved, np.concatenate(parts).tobytes()


def _amplitudes(table: bytes) -> bytes:
    """A generator table with its attenuations, in centibels, as the thousandths of amplitude that symusic takes off."""
    pairs = []
    for kind, amount in _GENERATOR.iter_unpack(table):
        if kind == ATTENUATION:
            centibels = min(amount, 1440) if amount < 1 << 15 else 0  # negative ones would amplify; players clip them
            amount = round(1000 * (1 - 10 ** (-ATTENUATION_SHARE * centibels / 200)))
        pairs.append(_GENERATOR.pack(kind, amount))
    return b"".join(pairs)
