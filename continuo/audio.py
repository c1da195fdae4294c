"""Audio files in and out. soundfile decodes (libsndfile), torchaudio resamples; everything is mono float32.

Decoding goes block by block, so that memory stays flat whatever the length of a file.
"""

import io
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from continuo.files import replacing

AUDIO_ENDINGS = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"}
    | {".caf", ".w64", ".rf64"}
)
UNDECODABLE_ENDINGS = frozenset(
    {".m4a", ".aac", ".wma", ".mp4", ".webm", ".mka", ".ape", ".alac", ".dsf", ".mpc", ".wv"}
)
REFERENCE_DB = -23.0  # the gated RMS level at which every model hears and makes music
BLOCK_SAMPLES = 1 << 19


def decode_blocks(path: Path, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Mono float32 blocks of a file at `sample_rate_hz`; together they are the whole file, exactly once.

    Channels are averaged, never summed. Samples above full scale are kept as they are.

    Raises:
        ValueError: the file cannot be decoded; the reason is libsndfile's.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if not 1000 <= file.samplerate <= 768_000:
                raise ValueError(f"its sample rate of {file.samplerate} Hz is outside 1,000 to 768,000 Hz")
            size = max(BLOCK_SAMPLES // file.channels, 4096)
            blocks = (block.mean(axis=1) for block in file.blocks(size, dtype="float32", always_2d=True))
            yield from resample_blocks(blocks, file.samplerate, sample_rate_hz)
    except soundfile.SoundFileError as error:
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        if path.stat().st_size == 0:
            reason = "the file is empty"
        raise ValueError(f"cannot be decoded ({reason}): is it whole, and what its name says?") from None


class Resampler:
    """Windowed-sinc resampling (torchaudio) by `made / unit`: every `unit` samples become `made`.

    Attributes:
        margin: samples, a multiple of `unit`, beyond which no sample of the original matters to one of the result.
    """

    def __init__(self, unit: int, made: int) -> None:
        from torchaudio.transforms import Resample

        divisor = math.gcd(unit, made)
        self.unit, self.made = unit // divisor, made // divisor
        reach = 16 * max(1.0, self.unit / self.made)  # a filter of 6 zero crossings reaches less far
        self.margin = (math.ceil(reach / self.unit) + 1) * self.unit
        self._resample = Resample(self.unit, self.made)

    def length(self, samples: int) -> int:
        """Samples that `samples` samples become."""
        return math.ceil(samples * self.made / self.unit)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """`(N,)` to `(ceil(N * made / unit),)` float32, silence outside."""
        import torch

        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return np.asarray(self._resample(torch.from_numpy(np.ascontiguousarray(samples))))


class ResampledView:
    """Samples that are resampled where they are looked at: `len`, and slices of step 1, as an array has them.

    Reads are sample for sample what resampling the whole would give.
    """

    def __init__(self, samples: np.ndarray, resampler: Resampler) -> None:
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


def write_wav(path: Path, blocks: Iterable[np.ndarray], sample_rate_hz: int, *, channels: int = 1) -> int:
    """Write blocks, `(n,)` or `(n, channels)`, as 16-bit WAV while they are made; whole or not at all.

    Returns the number of samples.

    Peaks are rounded off by `soft_limit`, never wrapped.
    """
    written = 0
    with (
        replacing(path) as temporary,
        soundfile.SoundFile(temporary, "w", sample_rate_hz, channels, "PCM_16", format="WAV") as file,
    ):
        for block in blocks:
            file.write(soft_limit(block))
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


def audible_range(samples: np.ndarray, sample_rate_hz: int, loudness: float) -> tuple[int, int]:
    """First and last sample (exclusive) of what is heard, without the silence (35 dB below `loudness`) at both ends.

    A model that hears recordings ring out to nothing learns to fall silent. A tenth of a second is kept on either side.
    """
    size = max(1, sample_rate_hz // 50)
    edges = range(0, len(samples), size)
    power = np.array([np.mean(np.square(samples[i : i + size], dtype=np.float64)) for i in edges])
    heard = np.flatnonzero(power > 10 ** ((loudness - 35) / 10))
    if not len(heard):
        return 0, len(samples)
    return max(0, (int(heard[0]) - 5) * size), min(len(samples), (int(heard[-1]) + 6) * size)


def loudness_db(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Gated level: RMS over the 0.4 s blocks that lie at most 20 dB below the loudest, in dB below full scale.

    Pauses and fades do not count, as in EBU R 128, but without its ear filter. Silence gives -120.
    """
    size = max(1, int(0.4 * sample_rate_hz))
    edges = range(0, len(samples), size)
    power = np.array([np.mean(np.square(samples[i : i + size], dtype=np.float64)) for i in edges])
    if not len(power) or power.max() < 1e-12:
        return -120.0
    return float(10 * np.log10(power[power >= power.max() * 1e-2].mean()))
