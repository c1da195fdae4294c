"""Decode and write audio files. libsndfile (soundfile) decodes; audio is float32 afterwards, mono or stereo.

Files are decoded in blocks, so that memory stays flat whatever the length of a file.
"""

import io
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile

from continuo.audio.mixdown import mix_blocks
from continuo.audio.resampling import BLOCK_SAMPLES, resample_blocks
from continuo.audio.samples import channels_differ, mix_to_mono
from continuo.system.files import atomic_write

AUDIO_ENDINGS = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"}
    | {".caf", ".w64", ".rf64"}
)
UNDECODABLE_ENDINGS = frozenset(
    {".m4a", ".aac", ".wma", ".mp4", ".webm", ".mka", ".ape", ".alac", ".dsf", ".mpc", ".wv"}
)
MADE_BY_A_MODEL = "made by a model of Continuo"  # the comment inside such a WAV
MAX_SECONDS = 12 * 3600.0  # s of a recording; a few bytes of compressed silence can declare months
MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000
LENGTH_FIELDS: dict[bytes, tuple[int, int, Literal["little", "big"], int]] = {
    b"RIFF": (4, 4, "little", 8),  # WAV
    b"RIFX": (4, 4, "big", 8),
    b"RF64": (20, 8, "little", 8),
    b"riff": (16, 8, "little", 0),  # Wave64
    b"FORM": (4, 4, "big", 8),  # AIFF
    b".snd": (8, 4, "big", 24),  # AU
}
"""First bytes of a file: place, size and byte order of the length that its header declares, and what it omits."""
UNKNOWN_BYTES = 0x7F000000  # declared lengths from here on mean "unknown": the file was written to a pipe
TRUNCATED = "is truncated: its file holds less than its header declares, and what is there was read"
UNCLOSED = "was never closed by the program that recorded it: its header declares too little, and all of it was read"
MISSING_BYTES, PRESENT_FRACTION = 1024, 0.99  # smaller losses are differences in how programs count
FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x06]")  # of a stream
PAGE_BYTES = 27  # of the header of an Ogg page, before the table of its segments
MAX_CHUNKS = 1000  # before the samples of a WAV or AIFF
CHUNK_NAME = re.compile(rb"[ -~]{4}|ID3.", re.DOTALL)  # ID3 begins a tag behind the chunks


def decode_blocks(path: Path, sample_rate_hz: int, channels: int = 1) -> Iterator[np.ndarray]:
    """Decode a file to float32 blocks at `sample_rate_hz`, which together are the whole file.

    Blocks are `(n, 2)` if two `channels` are wanted and the file has two that differ anywhere. Otherwise they are
    `(n,)`, the mean of the channels, or one of them where they cancel each other (`continuo.audio.mixdown`). Nothing is
    clipped. ValueError with libsndfile's reason if it cannot be decoded.
    """
    try:
        stereo = channels == 2 and any(map(_is_stereo, open_sounds(path)))
        seconds_left = MAX_SECONDS
        for rate_hz, sounds in groupby(open_sounds(path), attrgetter("samplerate")):
            if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
                raise ValueError(f"its sample rate of {rate_hz} Hz is outside {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz")
            blocks = chain.from_iterable(_decode(sound, stereo) for sound in sounds)
            for block in resample_blocks(blocks, rate_hz, sample_rate_hz):
                seconds_left -= len(block) / sample_rate_hz
                if seconds_left < 0:
                    raise ValueError(f"it lasts more than {MAX_SECONDS / 3600:.0f} hours: cut it into parts")
                yield block
    except soundfile.SoundFileError as error:
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        if path.stat().st_size == 0:
            reason = "the file is empty"
        elif "does not exist" in reason:  # libsndfile says so of an MP3 without a single frame
            reason = "no sound is found in it"
        raise ValueError(f"cannot be decoded ({reason}): is it whole, and what its name says?") from None


def _decode(file: soundfile.SoundFile, stereo: bool) -> Iterator[np.ndarray]:
    """Yield blocks of a file at its own rate, `(n,)`, or `(n, 2)` for `stereo`."""
    if stereo and file.channels == 2:
        return _read_blocks(file)
    mixed = mix_blocks(_read_blocks(file), file.samplerate)
    return (with_channels(block, 2) for block in mixed) if stereo else mixed


def _is_stereo(file: soundfile.SoundFile) -> bool:
    """Return whether a file has two channels that differ; it is decoded up to the first difference."""
    return file.channels == 2 and any(map(channels_differ, _read_blocks(file)))


def _read_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Yield blocks `(n, C)`. `SoundFile.blocks` would repeat the last block where a file is truncated."""
    size = max(BLOCK_SAMPLES // file.channels, 4096)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        yield block


def damage(path: Path, seconds: float) -> str:
    """Return what is wrong with a file of which `seconds` were decoded, in words that follow its name; "" if nothing.

    It was not copied to its end, or recording stopped. Ogg headers declare no length: Ogg files are never truncated.
    """
    with open(path, "rb") as raw:
        header = raw.read(28)
    if field := LENGTH_FIELDS.get(header[:4]):
        place, size, order, left_out = field
        declared = int.from_bytes(header[place : place + size], order)
        if declared < UNKNOWN_BYTES and path.stat().st_size + MISSING_BYTES < declared + left_out:
            return TRUNCATED
    if unclosed_lengths(path):
        return UNCLOSED
    lengths = [file.frames / file.samplerate for file in open_sounds(path)]
    streams = len(ogg_chain(path))
    if lost := max(streams - sum(length > 0 for length in lengths), 0):
        return f"is damaged: {lost} of its {streams} streams cannot be decoded, and the others were read"
    return TRUNCATED if seconds < PRESENT_FRACTION * sum(lengths) else ""


# --- files that libsndfile reads in part: chained Ogg, WAV and AIFF that were never closed ------------------------


class FileMap(mmap.mmap):
    """A memory map in which libsndfile may look beyond the end, where it finds nothing."""

    def seek(self, pos: int, whence: int = os.SEEK_SET) -> None:
        place = pos + (0, self.tell(), len(self))[whence]
        super().seek(min(max(place, 0), len(self)))


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
    with open(path, "rb") as raw, FileMap(raw.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        for place, patch in patches.items():  # they change the file in memory alone
            data[place : place + len(patch)] = patch
        parts = (io.BytesIO(data[start:stop]) for start, stop in pairwise([*starts, len(data)]))
        for part in parts if starts else [data]:
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
    """Return what to lay over the header of a WAV or AIFF that was never closed, by place; nothing for other files.

    Such a header declares no samples, or those of an earlier save, though what follows are neither chunks nor zeros.
    The largest length, which is returned for it, means to libsndfile that the samples go on to the end; RF64 has its
    length in a chunk "ds64".
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        kind = file.read(12)
        is_aiff = kind[:4] == b"FORM" and kind[8:11] == b"AIF"
        if not (is_aiff or (kind[:4] in (b"RIFF", b"RIFX", b"RF64") and kind[8:] == b"WAVE")):
            return {}
        order: Literal["little", "big"] = "big" if kind[:4] in (b"RIFX", b"FORM") else "little"
        samples = b"SSND" if is_aiff else b"data"
        places = _chunks(file, 12, size, order, samples)
        start = places.get(samples, size)
        field, length = start + 4, 4
        if kind[:4] == b"RF64" and b"ds64" in places:
            field, length = places[b"ds64"] + 16, 8
        file.seek(field)
        declared = int.from_bytes(file.read(length), order)
        stop, is_stale = start + 8 + declared, declared > 8 * is_aiff
        if stop + MISSING_BYTES * is_stale >= size or _are_chunks(file, stop + declared % 2, size, order, is_stale):
            return {}
        file.seek(stop)
        if is_stale and not any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b"")):
            return {}
    return {field: b"\xff" * 4} if length == 4 else {field: (size - start - 8).to_bytes(8, "little")}


def _chunks(file: BinaryIO, place: int, size: int, order: Literal["little", "big"], samples: bytes) -> dict[bytes, int]:
    """Return the places of the chunks of a WAV or AIFF up to the one that holds its `samples`, by name."""
    found: dict[bytes, int] = {}
    while place + 8 <= size and samples not in found and len(found) < MAX_CHUNKS:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        found[name] = place
        place += 8 + length + length % 2
    return found


def _are_chunks(file: BinaryIO, place: int, size: int, order: Literal["little", "big"], one_is_enough: bool) -> bool:
    """Return whether chunks, or tags of other formats, follow each other from `place` exactly to the end of a file.

    With `one_is_enough` the name of the first decides.
    """
    while place + 8 <= size:
        file.seek(place)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        if not CHUNK_NAME.fullmatch(name):
            return False
        if one_is_enough:
            return True
        place += 8 + length + length % 2
    return place <= size + 1


# --- writing, and levels ----------------------------------------------------------------------------------------------


def in_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield samples that are in memory in blocks of `BLOCK_SAMPLES`."""
    return (samples[start : start + BLOCK_SAMPLES] for start in range(0, len(samples), BLOCK_SAMPLES))


def write_wav(
    path: Path, blocks: Iterable[np.ndarray], sample_rate_hz: int, *, channels: int = 1, comment: str = ""
) -> int:
    """Write blocks `(n,)` or `(n, channels)` as a 16-bit WAV while they are made, and return the number of samples.

    The file appears only when it is complete. Peaks pass through `soft_limit`. OSError if the disk is full, say.
    """
    written = 0
    with atomic_write(path) as temporary:
        try:
            with soundfile.SoundFile(temporary, "w", sample_rate_hz, channels, "PCM_16", format="WAV") as file:
                if comment:
                    file.comment = comment
                for block in blocks:
                    file.write(soft_limit(block))
                    written += len(block)
        except soundfile.SoundFileError:  # libsndfile does not say which system error it was
            raise OSError(f"cannot write {path}: free some space, or choose another place") from None
    return written


def stream_wav(
    stream: BinaryIO, blocks: Iterable[np.ndarray], sample_rate_hz: int, *, channels: int = 1, comment: str = ""
) -> int:
    """Write blocks `(n,)` or `(n, channels)` to a pipe as 16-bit WAV, each as it comes, and return their total length.

    The length is not known in advance and a pipe cannot be rewound, so the header declares the largest possible one,
    as other programs do. `comment` stands before the samples, where programs look for it.
    """
    header, unknown = io.BytesIO(), b"\xff" * 4
    with soundfile.SoundFile(header, "w", sample_rate_hz, channels, "PCM_16", format="WAV") as empty:
        if comment:
            empty.comment = comment
    stream.write(header.getvalue()[:4] + unknown + header.getvalue()[8:-4] + unknown)  # lengths of file and samples
    written = 0
    for block in blocks:
        buffer = io.BytesIO()
        soundfile.write(buffer, soft_limit(block), sample_rate_hz, "PCM_16", endian="LITTLE", format="RAW")
        stream.write(buffer.getvalue())
        stream.flush()
        written += len(block)
    return written


def made_by_a_model(path: Path) -> bool:
    """Return whether a file carries the comment that `predict.py` writes into every WAV."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return bool(file.comment == MADE_BY_A_MODEL)
    except (soundfile.SoundFileError, OSError):
        return False  # decoding reports the problem


def flac(samples: np.ndarray, sample_rate_hz: int) -> bytes:
    """Return samples `(N,)` or `(N, C)` as the bytes of a 16-bit FLAC file; peaks pass through `soft_limit`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, soft_limit(samples), sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def soft_limit(samples: np.ndarray, knee: float = 0.9) -> np.ndarray:
    """Bend samples above `knee` towards 1 and keep the others; each moment on its own, so blocks make no difference.

    The channels of samples `(N, C)` get one gain, that of the loudest, so that the sound stays where it is.

    >>> soft_limit(np.array([0.5, -3.0], np.float32)).tolist()
    [0.5, -1.0]
    >>> soft_limit(np.array([[1.5, -3.0]], np.float32)).tolist()
    [[0.5, -1.0]]
    """
    peak = np.abs(samples) if samples.ndim == 1 else np.abs(samples).max(axis=1, keepdims=True)
    excess = peak - knee
    direction = np.sign(samples) if samples.ndim == 1 else samples / np.maximum(peak, knee)
    bent = direction * (knee + (1 - knee) * np.tanh(excess / (1 - knee)))
    return np.where(excess > 0, bent, samples).astype(np.float32)


def with_channels(samples: np.ndarray, channels: int) -> np.ndarray:
    """Return samples `(n,)` or `(n, 2)` with one channel, their mean `(n,)`, or with two, which may be equal `(n, 2)`.

    >>> with_channels(np.array([[1.0, 0.0]]), 1).tolist(), with_channels(np.array([0.5]), 2).tolist()
    ([0.5], [[0.5, 0.5]])
    """
    if channels == 1:
        return mix_to_mono(samples)
    return samples if samples.ndim == 2 else np.stack([samples, samples], axis=1)
