"""Open audio files, also those of which libsndfile reads a part only: chained Ogg, and WAV that was never closed."""

import io
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import soundfile

FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x06]")  # of a stream
PAGE_BYTES = 27  # of the header of an Ogg page, before the table of its segments
MAX_CHUNKS = 1000  # before the samples of a WAV
CHUNK_NAME = re.compile(rb"[ -~]{4}")


class FilePart(io.RawIOBase):
    """Present bytes `start` to `stop` of a file as a file of its own, with `patches` (place: bytes) laid over them."""

    def __init__(self, path: Path, start: int, stop: int, patches: dict[int, bytes]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  closed by `close`
        self._start, self._size, self._patches, self._place = start, stop - start, patches, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(offset + (0, self._place, self._size)[whence], 0)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._place)
        data = bytearray(self._file.read(max(min(len(buffer), self._size - self._place), 0)))
        for place, patch in self._patches.items():
            for number, byte in enumerate(patch, place - self._place):
                if 0 <= number < len(data):
                    data[number] = byte
        buffer[: len(data)] = bytes(data)
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_sounds(path: Path) -> Iterator[soundfile.SoundFile]:
    """Yield the sounds of a file one after the other, opened: one, or each stream of a chained Ogg file.

    A stream that cannot be decoded is left out where there are others. SoundFileError if there is none.
    """
    starts = ogg_chain(path)
    patches = {} if starts else unclosed_lengths(path)
    if not (starts or patches):
        with soundfile.SoundFile(os.fsencode(path)) as file:  # a file name need not be Unicode
            yield file
        return
    opened, failure = 0, None
    ends = [*starts[1:], path.stat().st_size]
    for start, stop in zip(starts or [0], ends, strict=True):
        with FilePart(path, start, stop, patches) as part:
            try:
                file = soundfile.SoundFile(part)
            except soundfile.SoundFileError as error:
                failure = error
                continue
            opened += 1
            with file:
                yield file
    if failure and not opened:
        raise failure


def ogg_chain(path: Path) -> list[int]:
    """Return where the streams of a chained Ogg file begin, in bytes; none for a file of another kind or of one stream.

    A chain is made of files that follow each other, each with pages of its own that begin its streams; several such
    pages side by side begin streams that sound together (RFC 3533, section 4).
    """
    if path.stat().st_size < PAGE_BYTES:
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"OggS":
            return []
        starts, end = [], -1
        for place in [page.start() for page in FIRST_PAGE.finditer(data)]:
            if place != end:
                starts.append(place)
            table = data[place + PAGE_BYTES : place + PAGE_BYTES + data[min(place + PAGE_BYTES - 1, len(data) - 1)]]
            end = place + PAGE_BYTES + len(table) + sum(table)
    return starts if len(starts) > 1 else []


def unclosed_lengths(path: Path) -> dict[int, bytes]:
    """Return what to lay over the header of a WAV that was never closed, by place; nothing for any other file.

    Such a header declares no samples (length 0), though what follows are not chunks. The largest length, which is
    returned for it, means to libsndfile that the samples go on to the end; RF64 has its length in a chunk "ds64".
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        kind = file.read(12)
        if kind[:4] not in (b"RIFF", b"RIFX", b"RF64") or kind[8:] != b"WAVE":
            return {}
        order: Literal["little", "big"] = "big" if kind[:4] == b"RIFX" else "little"
        places = _chunks(file, 12, size, order)
        data = places.get(b"data", size)
        field, length = data + 4, 4
        if kind[:4] == b"RF64" and b"ds64" in places:
            field, length = places[b"ds64"] + 16, 8
        file.seek(field)
        if any(file.read(length)) or size <= data + 8 or _ends_in_chunks(file, data + 8, size, order):
            return {}
    return {field: b"\xff" * 4} if length == 4 else {field: (size - data - 8).to_bytes(8, "little")}


def _chunks(file: BinaryIO, place: int, size: int, order: Literal["little", "big"]) -> dict[bytes, int]:
    """Return the places of the chunks of a WAV up to the one that holds its samples, by name."""
    found: dict[bytes, int] = {}
    while place + 8 <= size and b"data" not in found and len(found) < MAX_CHUNKS:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        found[name] = place
        place += 8 + length + length % 2
    return found


def _ends_in_chunks(file: BinaryIO, place: int, size: int, order: Literal["little", "big"]) -> bool:
    """Return whether chunks follow each other from `place` exactly to the end of a file."""
    while place + 8 <= size:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        if not CHUNK_NAME.fullmatch(name):
            return False
        place += 8 + length + length % 2
    return place <= size + 1
