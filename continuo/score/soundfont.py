"""Copies of SoundFonts that symusic's synthesizer plays in tune and in balance.

symusic 0.5.9 misreads three things. It ignores overridingRootKey and takes each sample's own root key instead: in fonts
that use it (TimGM6mb does for its piano and strings) notes are up to two octaves off. It takes initialAttenuation for
thousandths of the amplitude instead of centibels. It rounds loops to whole samples of its output: a loop of one period,
as most are, is up to 40 cents off at 24 kHz. `in_tune` writes a corrected copy of the font. Each zone that overrides
the root key or moves its loop gets a sample header of its own, attenuations are rewritten, and short loops repeated.
Samples that are out of tune in the font itself (TimGM6mb's flute at F5 by 15 cents) are tuned: the content of a loop is
exactly periodic, so its pitch is known.

Source: SoundFont Technical Specification 2.04, sections 7.8 to 7.10 and 8.1.2. Players agree to multiply the centibels
of generator 48 by 0.4, as the hardware did for which the format was made.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from continuo.system.files import atomic_write

KEY_RANGE, VELOCITY_RANGE, ATTENUATION, COARSE_TUNE, FINE_TUNE, SAMPLE_ID, ROOT_KEY = 43, 44, 48, 51, 52, 53, 58
"""Generators; the last is overridingRootKey."""
OFFSETS = {
    0: ("start", 1), 4: ("start", 32768), 1: ("end", 1), 12: ("end", 32768), 2: ("loop", 1), 45: ("loop", 32768),
    3: ("loop_end", 1), 50: ("loop_end", 32768),
}  # fmt: skip
"""Generators that move a sample's ends or loop: the field of its header, and the samples of one unit."""
ATTENUATION_FACTOR = 0.4
MIN_LOOP_S = 0.25  # seconds of a loop; a rounded sample then shifts it by less than half a cent at 24 kHz
PADDING = 46  # samples of silence that the format requires after each sample
NOT_PCM = 0x10 | 0x8000  # kinds of samples that stay as they are: Ogg Vorbis (.sf3), and those in a chip
MAX_BYTES = 512 << 20  # bytes of a font
MAX_ZONES = 4096  # zones of an instrument
MAX_LOOP = 1 << 20  # samples of a loop that is tuned
MAX_GROWTH = 4  # total length of the samples by their headers / length of the data; samples may overlap
MAX_ERROR_CENTS = 60  # samples that are further out of tune are meant to be
MIN_PERIODIC = 0.6  # fraction of a loop's energy that must lie on the harmonics of one pitch
_HEADER = struct.Struct("<20sIIIIIBbHH")
_PAIR = struct.Struct("<HH")  # a generator with its amount, or a zone with its first generator and modulator


class Sample(NamedTuple):
    """The header of a sample; `start`, `end`, `loop` and `loop_end` are positions in the sample data of the font."""

    name: bytes
    start: int
    end: int
    loop: int
    loop_end: int
    rate_hz: int
    root_key: int
    correction: int  # cents
    link: int
    kind: int

    def has_loop(self, size: int) -> bool:
        """Return True if the sample has a loop inside itself, and lies in `size` samples of data."""
        return self.start <= self.loop < self.loop_end <= self.end <= size


class Zone(NamedTuple):
    """A zone of an instrument: the indices of its generators, and all amounts in force by generator."""

    generators: range
    amounts: dict[int, int]

    def overlaps(self, other: Zone) -> bool:
        """Return True if one key, at one velocity, can sound both zones."""
        ranges = ([zone.amounts.get(kind, 127 << 8) for zone in (self, other)] for kind in (KEY_RANGE, VELOCITY_RANGE))
        return all(max(a & 255, b & 255) <= min(a >> 8, b >> 8) for a, b in ranges)

    def signed(self, kind: int) -> int:
        """Return the amount of a generator, 0 without, as a signed number."""
        amount = self.amounts.get(kind, 0)
        return amount - (amount >> 15 << 16)


def is_soundfont(path: Path) -> bool:
    """Return True for a file that begins as a RIFF file of type sfbk."""
    with suppress(OSError):
        if path.is_file():  # not a pipe, which would wait
            with path.open("rb") as file:
                head = file.read(12)
            return head[:4] == b"RIFF" and head[8:] == b"sfbk"
    return False


def in_tune(font: Path, folder: Path) -> Path:
    """Return a corrected copy of a font, which is made once and kept in `folder`.

    Raise ValueError if the font is damaged or too large, and OSError if the folder cannot be written.
    """
    stat = font.stat()
    name = f"{font.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|5"
    if stat.st_size > MAX_BYTES:
        raise ValueError(f"the SoundFont {font} is larger than {MAX_BYTES >> 20} MiB: choose a smaller one")
    target = folder / f"{font.stem}-{hashlib.sha256(name.encode()).hexdigest()[:16]}{font.suffix}"
    if target.exists():
        return target
    try:
        repaired = repair(font.read_bytes())
    except (struct.error, IndexError, KeyError, ValueError, ArithmeticError) as error:
        kind = type(error).__name__
        raise ValueError(f"the SoundFont {font} is damaged ({kind}): get it again, or name another") from None
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary:
        temporary.write_bytes(repaired)
    return target


def repair(data: bytes) -> bytes:
    """Return a corrected SoundFont; raise struct.error, IndexError or KeyError if one is cut off or inconsistent."""
    lists = _chunks(data[12:])
    tables, sound = _chunks(lists[b"pdta"]), _chunks(lists[b"sdta"])
    pcm = np.frombuffer(sound[b"smpl"], "<i2", len(sound[b"smpl"]) // 2)
    samples, tables[b"igen"] = _split_samples(tables, pcm)
    samples, sound[b"smpl"] = _repeat_loops(samples, sound[b"smpl"])
    sound.pop(b"sm24", None)  # the low bytes of 24-bit samples, which symusic does not read
    tables[b"shdr"] = b"".join(_HEADER.pack(*sample) for sample in samples) + tables[b"shdr"][-_HEADER.size :]
    lists[b"sdta"], lists[b"pdta"] = _join(sound), _join(tables)
    body = b"".join(_chunk(b"LIST", name + lists[name]) for name in (b"INFO", b"sdta", b"pdta"))
    return _chunk(b"RIFF", b"sfbk" + body)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the content of each RIFF chunk by name; a LIST has the name of its type."""
    found, position = {}, 0
    while position + 8 <= len(data):
        name, size = data[position : position + 4], struct.unpack_from("<I", data, position + 4)[0]
        content = data[position + 8 : position + 8 + size]
        if name == b"LIST":
            name, content = content[:4], content[4:]
        found[name] = content
        position += 8 + size + size % 2
    return found


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _join(chunks: dict[bytes, bytes]) -> bytes:
    return b"".join(_chunk(name, content) for name, content in chunks.items())


def _split_samples(tables: dict[bytes, bytes], pcm: np.ndarray) -> tuple[list[Sample], bytes]:
    """Give each zone that changes its sample a header of its own, and tune zones that sound alone.

    Zones that sound together may be out of tune on purpose, as the reeds of an accordion are. Return the headers but
    for the last one, which ends the table, and generators that point to them, move nothing, and attenuate as symusic.
    """
    samples = [Sample(*fields) for fields in _HEADER.iter_unpack(tables[b"shdr"])][:-1]
    generators = [list(pair) for pair in _PAIR.iter_unpack(tables[b"igen"])]
    index = {sample: number for number, sample in enumerate(samples)}
    for zones in _zones(tables, generators):
        for zone in zones:
            sample = _moved(samples[zone.amounts[SAMPLE_ID]], zone)
            if not any(zone.overlaps(other) for other in zones if other is not zone):
                sample = _tuned(sample, zone, pcm)
            if sample not in index:
                index[sample] = len(samples)
                samples.append(sample)
            for pair in generators[zone.generators.start : zone.generators.stop]:
                if pair[0] == SAMPLE_ID:
                    pair[1] = index[sample]
    for pair in generators:
        if pair[0] in OFFSETS:
            pair[1] = 0
        elif pair[0] == ATTENUATION:
            # symusic reads thousandths of the amplitude; players clip negative centibels, which would amplify
            centibels = min(pair[1], 1440) if pair[1] < 1 << 15 else 0
            pair[1] = round(1000 * (1 - 10 ** (-ATTENUATION_FACTOR * centibels / 200)))
    return samples, b"".join(_PAIR.pack(*pair) for pair in generators)


def _zones(tables: dict[bytes, bytes], generators: list[list[int]]) -> Iterator[list[Zone]]:
    """Yield the zones with a sample of each instrument; amounts of its global zone hold where a zone has none."""
    first = [struct.unpack_from("<H", tables[b"inst"], at + 20)[0] for at in range(0, len(tables[b"inst"]), 22)]
    bags = [bag for bag, _ in _PAIR.iter_unpack(tables[b"ibag"])]
    if sorted(first) != first or sorted(bags) != bags:
        raise IndexError("zones go backwards")
    for begin, end in itertools.pairwise(first):
        if end - begin > MAX_ZONES:
            raise IndexError("too many zones")
        common: dict[int, int] = {}
        zones = []
        for k in range(begin, end):
            members = range(bags[k], min(bags[k + 1], len(generators)))
            amounts = {generators[n][0]: generators[n][1] for n in members}
            if SAMPLE_ID in amounts:
                zones.append(Zone(members, common | amounts))
            elif k == begin:
                common = amounts
        yield zones


def _moved(sample: Sample, zone: Zone) -> Sample:
    """Return a sample header with the root key, ends and loop of a zone."""
    if zone.amounts.get(ROOT_KEY, 128) <= 127:
        sample = sample._replace(root_key=zone.amounts[ROOT_KEY])
    for kind, (field, unit) in OFFSETS.items():
        sample = sample._replace(**{field: max(getattr(sample, field) + unit * zone.signed(kind), 0)})
    return sample


def _tuned(sample: Sample, zone: Zone, pcm: np.ndarray) -> Sample:
    """Correct the pitch of a sample whose loop has a clear pitch near its root key."""
    length = sample.loop_end - sample.loop
    if not sample.has_loop(len(pcm)) or sample.kind & NOT_PCM or not sample.rate_hz or length > MAX_LOOP:
        return sample
    tuning = sample.correction + 100 * zone.signed(COARSE_TUNE) + zone.signed(FINE_TUNE)  # cents
    wanted = 440 * 2 ** ((sample.root_key - 69 - tuning / 100) / 12) * length / sample.rate_hz  # periods in the loop
    energy = np.abs(np.fft.rfft(pcm[sample.loop : sample.loop_end].astype(np.float32)))[1:] ** 2
    limit = 2 ** (MAX_ERROR_CENTS / 1200)
    nearest = range(max(round(wanted / limit), 1), round(wanted * limit) + 1)
    periods = max(nearest, key=lambda n: energy[n - 1 :: n].sum() - energy.sum() / n, default=0)
    if not periods or energy[periods - 1 :: periods].sum() < MIN_PERIODIC * energy.sum():
        return sample
    cents = 1200 * math.log2(periods / wanted)
    if abs(cents) > MAX_ERROR_CENTS or not -99 <= sample.correction - cents <= 99:
        return sample
    return sample._replace(correction=round(sample.correction - cents))


def _repeat_loops(samples: list[Sample], data: bytes) -> tuple[list[Sample], bytes]:
    """Repeat every loop until it lasts `MIN_LOOP_S`; return headers and data."""
    if any(sample.kind & NOT_PCM for sample in samples):
        return samples, data
    pcm = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    moved: list[Sample] = []
    positions: dict[tuple[int, ...], tuple[int, int]] = {}  # new start and added samples by old positions
    parts: list[np.ndarray] = []
    length = copied = 0
    for sample in samples:
        _, start, end, loop, loop_end, *_ = sample
        old = sample[1:5]
        if old not in positions:
            least = MIN_LOOP_S * min(sample.rate_hz, 192_000) if sample.has_loop(len(pcm)) else 0
            added = np.tile(pcm[loop:loop_end], max(math.ceil(least / max(loop_end - loop, 1)) - 1, 0))
            middle = min(max(loop_end, start), end)
            parts.append(np.concatenate([pcm[start:middle], added, pcm[middle:end], np.zeros(PADDING, "<i2")]))
            positions[old] = length, len(added)
            length += len(parts[-1])
            copied += max(end - start, 0)
            if copied > MAX_GROWTH * len(pcm) or length > MAX_BYTES:
                raise IndexError("samples overlap")
        new_start, count = positions[old]
        shift, later = new_start - start, new_start - start + count
        moved.append(sample._replace(start=new_start, end=end + later, loop=loop + shift, loop_end=loop_end + later))
    return moved, np.concatenate(parts).tobytes()
