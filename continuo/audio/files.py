"""Audio files in and out. soundfile decodes (libsndfile), torchaudio resamples; everything is mono float32.

Decoding goes block by block, so that memory stays flat whatever the length of a file.
"""

import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from continuo.system.files import atomic_write
from continuo.system.workers import check_cancelled

AUDIO_ENDINGS = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"}
    | {".caf", ".w64", ".rf64"}
)
UNDECODABLE_ENDINGS = frozenset(
    {".m4a", ".aac", ".wma", ".mp4", ".webm", ".mka", ".ape", ".alac", ".dsf", ".mpc", ".wv"}
)
REFERENCE_DB = -23.0  # the gated RMS level at which every model hears and makes music
BLOCK_SAMPLES = 1 << 19
MADE_BY_A_MODEL = "made by a model of Continuo"  # the comment of such a WAV
MAX_SECONDS = 12 * 3600.0  # of a recording: compressed silence may promise months in a few bytes
MAX_TAPS = 1 << 24  # of a resampling filter, before rates that have hardly a factor in common are met approximately
OGG_PAGE, MAX_PAGE, LAST_PAGE = b"OggS", 65_307, 4  # how a page begins, its bytes at most, the flag of the last
PROMISED = re.compile(r"^ *(?:data|SSND|Data Size|[Rr]iff size|riff) +: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_BYTES = 0x7F000000  # a header that promises as many or more was written to a pipe, and promises nothing
LOST_BYTES, LOST_SHARE = 1024, 0.99  # fewer missing bytes, or samples, are how a writer counts, not a loss
ROWS = 64  # outputs of one row of the resampling product, at least: fewer would leave the processor idle


def decode_blocks(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks of a file at `sample_rate_hz`; together they are the whole file, exactly once.

    Channels are averaged, never summed. Samples above full scale are kept as they are.

    Raises:
        ValueError: the file cannot be decoded; the reason is libsndfile's.
    """
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:  # a name need not be Unicode
            if not 1000 <= file.samplerate <= 768_000:
                raise ValueError(f"its sample rate of {file.samplerate} Hz is outside 1,000 to 768,000 Hz")
            size = max(BLOCK_SAMPLES // file.channels, 4096)
            blocks = _bounded(_read(file, size), file.samplerate)
            yield from resample_blocks(map(_mono, blocks), file.samplerate, sample_rate_hz)
    except soundfile.SoundFileError as error:
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        if path.stat().st_size == 0:
            reason = "the file is empty"
        elif "does not exist" in reason:  # libsndfile's word for an MP3 without a single frame
            reason = "no sound is found in it"
        raise ValueError(f"cannot be decoded ({reason}): is it whole, and what its name says?") from None


def _read(file: soundfile.SoundFile, size: int) -> Iterator[np.ndarray]:
    """What decodes, `(N, C)` at a time; `SoundFile.blocks` fills a file that is cut short up with its last block."""
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        yield block


def cut_short(path: Path, seconds: float) -> bool:
    """Whether there is less in a file than its header promises: `seconds` are what decoded.

    A recording that was not copied to its end, or whose recorder stopped too early.
    """
    with soundfile.SoundFile(os.fsencode(path)) as file:
        promises = [(int(promised), int(there)) for promised, there in PROMISED.findall(file.extra_info)]
        missing = any(there + LOST_BYTES < promised < UNKNOWN_BYTES for promised, there in promises)
        unended = file.format == "OGG" and not _ogg_ends(path)
        return missing or unended or seconds < LOST_SHARE * file.frames / file.samplerate


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an Ogg file says that it is the last."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * MAX_PAGE))
        _, _, page = file.read().rpartition(OGG_PAGE)  # after which a version and flags come, a byte each
    return len(page) > 1 and bool(page[1] & LAST_PAGE)


def _bounded(blocks: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[np.ndarray]:
    """The blocks, as long as they last no longer than `MAX_SECONDS`."""
    left = MAX_SECONDS * sample_rate_hz
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise ValueError(f"it lasts more than {MAX_SECONDS / 3600:.0f} hours: cut it into parts")
        yield block


def in_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Samples that are in memory, block by block."""
    return (samples[start : start + BLOCK_SAMPLES] for start in range(0, len(samples), BLOCK_SAMPLES))


def _mono(block: np.ndarray) -> np.ndarray:
    """The mean of the channels, `(N, C)` to `(N,)`; channel after channel is 20 times as fast as `mean(axis=1)`."""
    total = block[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is refused in words
        for channel in range(1, block.shape[1]):
            total = total + block[:, channel]
        return total / np.float32(block.shape[1])


class StoredSamples:
    """Samples in a raw float32 file: `len`, slices of step 1, and `np.asarray`, which reads them.

    A slice reads nothing yet. No handle stays open and nothing stays mapped, so a corpus may have any number of pieces.
    `restore` is called where the file is found missing or damaged, and makes it anew.
    """

    def __init__(
        self, path: Path, start: int = 0, stop: int | None = None, restore: Callable[[], None] | None = None
    ) -> None:
        self.path, self.start, self.restore = path, start, restore
        self.stop = path.stat().st_size // 4 if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "StoredSamples":
        start, stop, _ = part.indices(len(self))
        return StoredSamples(self.path, self.start + start, self.start + max(start, stop), self.restore)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        try:
            samples = self._read()
        except FileNotFoundError:
            if self.restore is None:
                raise
            samples = np.zeros(0, np.float32)
        if self.restore and (len(samples) < len(self) or not np.isfinite(samples).all()):
            self.restore()
            samples = self._read()
        return samples.astype(dtype or np.float32, copy=False)

    def _read(self) -> np.ndarray:
        return np.fromfile(self.path, np.float32, len(self), offset=4 * self.start)


class Resampler:
    """Windowed-sinc resampling (torchaudio's filter) by `made / unit`: every `unit` samples become `made`.

    The filter is laid out as a band of `ROWS` outputs or a few more, so that resampling is one matrix product.

    Attributes:
        margin: samples, a multiple of `unit`, beyond which no sample of the original matters to one of the result.
    """

    def __init__(self, unit: int, made: int) -> None:
        from torchaudio.transforms import Resample

        self.unit, self.made = _ratio(unit, made)
        reach = 16 * max(1.0, self.unit / self.made)  # a filter of 6 zero crossings reaches less far
        self.margin = (math.ceil(reach / self.unit) + 1) * self.unit
        plain = Resample(self.unit, self.made)
        taps = plain.kernel[:, 0]  # (made, 2 * before + unit)
        self._before, repeats = plain.width, -(-ROWS // self.made)
        self._step, rows = repeats * self.unit, repeats * self.made
        self._band = taps.new_zeros(rows, self._step - self.unit + taps.shape[1])
        for i in range(repeats):
            self._band[i * self.made : (i + 1) * self.made, i * self.unit : i * self.unit + taps.shape[1]] = taps

    def length(self, samples: int) -> int:
        """Samples that `samples` samples become."""
        return math.ceil(samples * self.made / self.unit)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """`(N,)` to `(ceil(N * made / unit),)` float32, silence outside."""
        import torch

        rows, reach = self._band.shape
        length = self.length(len(samples))
        covered = (-(-length // rows) - 1) * self._step + reach
        padded = np.zeros(max(covered, self._before + len(samples)), np.float32)
        padded[self._before : self._before + len(samples)] = samples
        with torch.inference_mode():
            stretches = torch.from_numpy(padded).unfold(0, reach, self._step)  # (-(-length // rows) or more, reach)
            return (stretches @ self._band.T).flatten()[:length].numpy()


def _ratio(unit: int, made: int) -> tuple[int, int]:
    """`unit / made` in least terms, or what is nearest to it (by a millionth) and has a filter of `MAX_TAPS` at most.

    >>> _ratio(44100, 24000), _ratio(44101, 24000)
    ((147, 80), (3857, 2099))
    """
    ratio = Fraction(unit, made)
    if ratio.numerator * ratio.denominator > MAX_TAPS:
        ratio = ratio.limit_denominator(max(math.isqrt(int(MAX_TAPS / ratio)), 1))
    return ratio.numerator, ratio.denominator


class ResampledView:
    """Samples that are resampled where they are looked at: `len`, and slices of step 1, as an array has them.

    Reads are sample for sample what resampling the whole would give.
    """

    def __init__(self, samples: "Samples", resampler: Resampler) -> None:
        self.samples, self.resampler = samples, resampler

    def __len__(self) -> int:
        return self.resampler.length(len(self.samples))

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        if start >= stop:
            return np.zeros(0, np.float32)
        unit, made, margin = self.resampler.unit, self.resampler.made, self.resampler.margin
        first = max(start // made * unit - margin, 0)  # a multiple of `unit`
        last = min(-(-stop // made) * unit + margin, len(self.samples))
        skipped = first // unit * made
        return self.resampler(np.asarray(self.samples[first:last], np.float32))[start - skipped : stop - skipped]


Samples = np.ndarray | StoredSamples | ResampledView


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """Resample a stream of blocks, sample for sample what resampling the whole would give.

    Each stretch is resampled with its neighbourhood, as wide as the filter, and the neighbourhood is cut off again.
    Blocks may have any length; the result holds `ceil(N * to_hz / from_hz)` samples in all.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    resampler = Resampler(from_hz, to_hz)
    unit, margin = resampler.unit, resampler.margin
    stretch = max(BLOCK_SAMPLES // unit, 1) * unit
    held, before = np.zeros(0, np.float32), 0  # `before` leading samples of `held` are context already given out

    def give(take: int, context: int) -> np.ndarray:
        start = resampler.length(before)
        return resampler(held[: before + take + context])[start : start + resampler.length(take)]

    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) - before >= stretch + margin:
            yield give(stretch, margin)
            keep = min(margin, before + stretch)
            held, before = held[before + stretch - keep :], keep
    if len(held) > before:
        yield give(len(held) - before, 0)


def read_audio(path: Path, sample_rate_hz: int) -> np.ndarray:
    """A whole file, mono float32 `(N,)`. Raises ValueError as `decode_blocks` does."""
    return np.concatenate([np.zeros(0, np.float32), *decode_blocks(path, sample_rate_hz)])


def write_wav(
    path: Path, blocks: Iterable[np.ndarray], sample_rate_hz: int, *, channels: int = 1, comment: str = ""
) -> int:
    """Write blocks, `(n,)` or `(n, channels)`, as 16-bit WAV while they are made; whole or not at all.

    Peaks are rounded off by `soft_limit`, never wrapped.

    Returns:
        The number of samples.

    Raises:
        OSError: there is no space for it.
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


def made_by_a_model(path: Path) -> bool:
    """Whether a file says that `predict.py` made it."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:  # as in `decode_blocks`
            return bool(file.comment == MADE_BY_A_MODEL)
    except (soundfile.SoundFileError, OSError):
        return False  # decoding will say what is wrong with it


def stream_wav(stream: BinaryIO, blocks: Iterable[np.ndarray], sample_rate_hz: int, *, comment: str = "") -> int:
    """Write mono blocks `(n,)` to a pipe as 16-bit WAV, each as it comes; returns the number of samples.

    The length is not known before the end and cannot be written afterwards, so the header holds the largest number
    there is, as programs do that write to pipes. `comment` stands before the sound, where readers of WAVs look for it.
    """
    unknown = 2**32 - 1
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    text = comment.encode() + bytes(2 - len(comment.encode()) % 2)  # ends with a zero, at an even place
    said = struct.pack("<4sI4s4sI", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text)) + text if comment else b""
    head = struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE") + form + said
    stream.write(head + struct.pack("<4sI", b"data", unknown))
    written = 0
    for block in blocks:
        buffer = io.BytesIO()
        soundfile.write(buffer, soft_limit(block), sample_rate_hz, "PCM_16", endian="LITTLE", format="RAW")
        stream.write(buffer.getvalue())
        stream.flush()
        written += len(block)
    return written


def flac(samples: np.ndarray, sample_rate_hz: int) -> bytes:
    """Mono samples as a 16-bit FLAC file in memory; peaks are rounded off by `soft_limit`."""
    buffer = io.BytesIO()
    soundfile.write(buffer, soft_limit(samples), sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def soft_limit(samples: np.ndarray, knee: float = 0.9) -> np.ndarray:
    """Samples below `knee` unchanged, those above bent towards 1; sample by sample, so blocks make no difference.

    >>> soft_limit(np.array([0.5, -3.0], np.float32)).tolist()
    [0.5, -1.0]
    """
    excess = np.abs(samples) - knee
    bent = np.sign(samples) * (knee + (1 - knee) * np.tanh(excess / (1 - knee)))
    return np.where(excess > 0, bent, samples).astype(np.float32)


def block_powers(samples: Samples, size: int) -> np.ndarray:
    """Mean square of every `size` samples, `(ceil(N / size),)` float64; the last block may be shorter.

    >>> block_powers(np.array([1, 3, 2], np.float32), 2).tolist()
    [5.0, 4.0]
    """
    powers = [np.zeros(0)]
    step = max(1, (1 << 18) // size) * size
    for first in range(0, len(samples), step):
        check_cancelled()
        squared = np.square(samples[first : first + step], dtype=np.float64)
        whole = len(squared) // size * size
        powers.append(squared[:whole].reshape(-1, size).mean(axis=1))
        if whole < len(squared):
            powers.append(squared[whole:].mean(keepdims=True))
    return np.concatenate(powers)


def audible_range(samples: Samples, sample_rate_hz: int, loudness: float) -> tuple[int, int]:
    """First and last sample (exclusive) of what is heard, without the silence (35 dB below `loudness`) at both ends.

    A model that hears recordings ring out to nothing learns to fall silent. A tenth of a second is kept on either side.
    """
    size = max(1, sample_rate_hz // 50)
    power = block_powers(samples, size)
    heard = np.flatnonzero(power > 10 ** ((loudness - 35) / 10))
    if not len(heard):
        return 0, len(samples)
    return max(0, (int(heard[0]) - 5) * size), min(len(samples), (int(heard[-1]) + 6) * size)


def loudness_db(samples: Samples, sample_rate_hz: int) -> float:
    """Gated level: RMS over the 0.4 s blocks that lie at most 20 dB below the loudest, in dB below full scale.

    Pauses and fades do not count, as in EBU R 128, but without its ear filter. Silence gives -120.
    """
    size = max(1, int(0.4 * sample_rate_hz))
    power = block_powers(samples, size)
    if not len(power) or power.max() < 1e-12:
        return -120.0
    return float(10 * np.log10(power[power >= power.max() * 1e-2].mean()))
