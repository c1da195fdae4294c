"""Send recordings through a codec and measure what is lost, next to Opus and Vorbis.

    python benchmarks/codec.py --audio DIR --out DIR [--meta FILE | --fit DIR [--preset NAME] [--set KEY=VALUE]]
                               [--excerpts 6] [--seconds 6] [--no-others] [--json]

Each folder inside `--audio` is one row of the table; recordings that lie in `--audio` itself are a row as well. Every
recording gives up to `--excerpts` excerpts, spread evenly. `OUT/original/` and `OUT/codec/` hold them, as WAV files
with the same names, and `OUT/pictures.png` the first excerpt of each row side by side.
The codec is that of the shipped model, of another one (`--meta`), or of a preset, adapted to the
recordings in `--fit` first.

MMD2 and AUC compare windows of 2 s at 16 kHz mono with the original: 0 and 0.5 mean no difference. Onsets and flux are
ratios to the original. Level is that of the median frame. The spectral error is the mean absolute difference of log
magnitudes up to 16 kHz, in dB, where the original is above -60 dB. The stereo errors are those of level difference (dB)
and coherence (0 to 1) in 20 bands. Air is the energy above 12 kHz over that of the original, in dB.
"""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import resample_poly, stft

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from continuo.audio.files import AUDIO_ENDINGS
from continuo.audio.pictures import new_figure, save_figure
from continuo.audio.piece import Piece
from continuo.model import presets
from continuo.system.command_line import Parser, run_main
from continuo.system.paths import MODELS
from continuo.system.progress import Display
from evaluation.sound import similarity
from featurizer import CodecFeaturizer, build_featurizer
from predictor import Predictor

SHIPPED = MODELS / "demo" / "chorales.json"
RATE_HZ, WINDOW, HOP = 44_100, 2048, 512  # of excerpts and of their wide measures
SILENCE_RMS = 1e-3  # quieter excerpts are left out
QUIET = 1e-6  # power of a band or bin below that of the loudest one, -60 dB, from where on it is not compared
BANDS, BAND_RANGE_HZ = 20, (100.0, 16_000.0)
SMOOTHING = 5  # frames over which the powers of a band are averaged
OTHERS = {
    "Opus, lowest": ("OPUS", 1.0), "Opus, low": ("OPUS", 0.953), "Opus, medium": ("OPUS", 0.9),
    "Vorbis, lowest": ("VORBIS", 1.0), "Vorbis, low": ("VORBIS", 0.8),
}  # fmt: skip
"""libsndfile's name and compression level, 0 to 1, by name."""
COLUMNS = {
    "mmd2": "MMD2", "auc": "AUC", "onset_ratio": "onsets", "flux_ratio": "flux", "level_diff_db": "level, dB",
    "spectral_error_db": "spectral error, dB", "stereo_level_error_db": "stereo level, dB",
    "stereo_coherence_error": "coherence", "above_12k_db": "air, dB", "bits_per_s": "bit/s", "realtime": "s per s",
}  # fmt: skip
Audio = np.ndarray  # (N,) or (N, 2), float32 at RATE_HZ
Figures = dict[str, float | None]  # by the keys of `COLUMNS`; None where there is too little music for one


@dataclass(frozen=True)
class Coded:
    """An excerpt after a codec, the bits that it took, and the seconds that coding and decoding took."""

    audio: Audio
    bits: float
    seconds: float


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("codec.py", __doc__)
    parser.add_argument("--audio", type=Path, required=True, metavar="DIR", help="folder of recordings, or of folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the WAVs")
    codec = parser.add_mutually_exclusive_group()
    codec.add_argument("--meta", type=Path, default=SHIPPED, help="model whose codec is used (default: the shipped)")
    codec.add_argument("--fit", type=Path, metavar="DIR", help="adapt the codec of a preset to these recordings first")
    parser.add_argument("--preset", default=presets.DEFAULT_PRESET, help="preset whose codec is adapted")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="metadata of the adapted codec")
    parser.add_argument("--excerpts", type=int, default=6, help="excerpts of each recording (default: 6)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of an excerpt (default: 6)")
    parser.add_argument("--no-others", action="store_true", help="leave out Opus and Vorbis")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="codec.py")


def _run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    if arguments.excerpts < 1 or not 2 <= arguments.seconds <= 600:
        raise ValueError("--excerpts must be 1 or more, and --seconds 2 to 600")
    rows = {name: found for name, files in folders(arguments.audio).items() if (found := cut(files, arguments))}
    if not rows:
        raise ValueError(f"{arguments.audio} holds no recording of {arguments.seconds:g} s or more")
    settings = presets.parse_assignments(arguments.set)
    featurizer, rate_hz = (
        fitted(arguments.fit, arguments.preset, settings) if arguments.fit else codec_of(arguments.meta)
    )
    codecs: dict[str, Callable[[Audio], Coded]] = {"Continuo": partial(through_codec, featurizer, rate_hz)}
    if not arguments.no_others:
        codecs |= {name: partial(through_libsndfile, *how) for name, how in OTHERS.items()}
    results: dict[str, dict[str, Figures]] = {}
    for row, excerpts in rows.items():
        for name, codec in codecs.items():
            coded = {excerpt: codec(audio) for excerpt, audio in excerpts.items()}
            results.setdefault(row, {})[name] = measure(list(excerpts.values()), list(coded.values()))
            if name == "Continuo":
                save(arguments.out / "original" / row, excerpts)
                save(arguments.out / "codec" / row, {excerpt: made.audio for excerpt, made in coded.items()})
    draw(arguments.out, list(rows))
    print(table(results))
    if arguments.json:
        print(json.dumps(results))
    return 0


def folders(root: Path) -> dict[str, list[Path]]:
    """Return the recordings below `root` by the name of their row."""
    if not root.is_dir():
        raise ValueError(f"--audio {root} is not a folder")
    rows: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_ENDINGS):
        parts = path.relative_to(root).parts
        rows.setdefault(parts[0] if len(parts) > 1 else root.resolve().name, []).append(path)
    return rows


def cut(files: list[Path], arguments: argparse.Namespace) -> dict[str, Audio]:
    """Return the excerpts of recordings by name; those that are silent or too short are left out."""
    length, excerpts = round(arguments.seconds * RATE_HZ), {}
    for path in files:
        audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        audio = resample(audio[:, :2], rate_hz, RATE_HZ)
        margin = RATE_HZ if len(audio) > length + 2 * RATE_HZ else 0  # the first and the last second are often silent
        count = min(arguments.excerpts, len(audio) // length)
        for number, start in enumerate(np.linspace(margin, len(audio) - length - margin, count).astype(int)):
            excerpt = audio[start : start + length]
            if np.sqrt(np.mean(np.square(excerpt))) > SILENCE_RMS:
                excerpts[f"{path.stem}-{number}"] = excerpt.squeeze()
    return excerpts


def resample(audio: Audio, rate_hz: int, new_rate_hz: int) -> Audio:
    """Return audio `(N,)` or `(N, C)` at another sample rate."""
    divisor = math.gcd(rate_hz, new_rate_hz)
    return np.asarray(resample_poly(audio, new_rate_hz // divisor, rate_hz // divisor, axis=0), np.float32)


def codec_of(meta: Path) -> tuple[CodecFeaturizer, int]:
    """Return the featurizer of a model, and its sample rate."""
    predictor = Predictor.load(meta)
    if not isinstance(predictor.featurizer, CodecFeaturizer):
        raise ValueError(f"{meta} has no codec: its frames are not quantized")
    return predictor.featurizer, predictor.sample_rate_hz


def fitted(folder: Path, name: str, settings: dict[str, Any]) -> tuple[CodecFeaturizer, int]:
    """Return the featurizer of a preset, adapted to recordings, and its sample rate."""
    with Display() as display:
        settings = {"corpus.path": str(folder)} | settings
        preset = presets.from_preset(name, settings, state="unused.safetensors")
        rate_hz = preset.corpus.sample_rate_hz
        pieces = corpus.load(preset.corpus, seed=preset.training.seed, display=display).pieces
        featurizer = build_featurizer(preset)
        assert isinstance(featurizer, CodecFeaturizer)
        started = time.monotonic()
        featurizer.fit(pieces, seed=preset.training.seed)
        for _ in featurizer.adapt(pieces, seed=preset.training.seed):
            pass
        display.say(f"codec adapted in {time.monotonic() - started:.1f} s")
    return featurizer, rate_hz


def through_codec(featurizer: CodecFeaturizer, rate_hz: int, audio: Audio) -> Coded:
    """Code an excerpt and decode it, in the way of a continuation from silence."""
    started = time.perf_counter()
    if audio.ndim == 2 and featurizer.channels == 1:
        audio = audio.mean(axis=1)
    piece = Piece.from_samples(resample(audio, RATE_HZ, rate_hz), rate_hz)
    codes = featurizer.encode(piece)
    decoder = featurizer.decoder()
    made = np.concatenate([*(decoder.push(step) for step in codes), decoder.finish()])
    made = made[featurizer.n_fft // 2 :][: len(piece.samples)] / piece.gain
    bits = len(codes) * sum(math.log2(size) for size in featurizer.codec.vocabulary)
    made = resample(made, rate_hz, RATE_HZ)[: len(audio)]
    return Coded(padded(made, len(audio)), bits, time.perf_counter() - started)


def through_libsndfile(subtype: str, compression: float, audio: Audio) -> Coded:
    """Code an excerpt as Opus (at 48 kHz) or Vorbis, and decode it."""
    started, rate_hz = time.perf_counter(), 48_000 if subtype == "OPUS" else RATE_HZ
    file = io.BytesIO()
    soundfile.write(
        file, resample(audio, RATE_HZ, rate_hz), rate_hz, format="OGG", subtype=subtype, compression_level=compression
    )
    size = file.tell()
    file.seek(0)
    made = resample(soundfile.read(file, dtype="float32")[0], rate_hz, RATE_HZ)[: len(audio)]
    return Coded(padded(made, len(audio)), 8.0 * size, time.perf_counter() - started)


def padded(audio: Audio, length: int) -> Audio:
    """Return audio with silence at the end, so that it has `length` samples."""
    return np.pad(audio, [(0, length - len(audio))] + [(0, 0)] * (audio.ndim - 1))


def measure(originals: list[Audio], coded: list[Coded]) -> Figures:
    """Return the figures of a row."""
    made = [coding.audio for coding in coded]
    real, other = ([audio if audio.ndim == 1 else audio.mean(axis=1) for audio in side] for side in (originals, made))
    figures = similarity(real, other, RATE_HZ)
    wide = [wide_errors(original, other) for original, other in zip(originals, made, strict=True)]
    seconds = sum(map(len, originals)) / RATE_HZ
    figures |= {name: float(np.nanmean([errors[name] for errors in wide])) for name in wide[0]}
    figures |= {"bits_per_s": sum(coding.bits for coding in coded) / seconds}
    figures |= {"realtime": sum(coding.seconds for coding in coded) / seconds}
    return {name: figures[name] for name in COLUMNS}


def wide_errors(original: Audio, made: Audio) -> dict[str, float]:
    """Return the errors that are measured frame by frame, at 44.1 kHz and in both channels."""
    ours, theirs = (channels(audio) for audio in (original, made))
    hz = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    powers = [np.square(np.abs(frames)).mean(axis=0) for frames in (ours, theirs)]
    audible = (powers[0] > QUIET * powers[0].max()) & (hz <= BAND_RANGE_HZ[1])[:, None]
    logs = [10 * np.log10(power + QUIET * powers[0].max()) for power in powers]
    air = [power[hz >= 12_000].sum() + 1e-9 * power.sum() for power in powers]
    (level, coherence, loud), (level_made, coherence_made, _) = image(ours, hz), image(theirs, hz)
    return {
        "spectral_error_db": float(np.abs(logs[0] - logs[1])[audible].mean()),
        "stereo_level_error_db": float(np.abs(level - level_made)[loud].mean()),
        "stereo_coherence_error": float(np.abs(coherence - coherence_made)[loud].mean()),
        "above_12k_db": float(10 * np.log10(air[1] / air[0])),
    }


def channels(audio: Audio) -> np.ndarray:
    """Return the frames `(2, K, T)` of both channels; those of mono audio are equal."""
    both = np.stack([audio, audio]) if audio.ndim == 1 else audio.T
    return np.asarray(stft(both, RATE_HZ, "hann", WINDOW, WINDOW - HOP, padded=False)[2])


def image(frames: np.ndarray, hz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the level difference (dB, within 30) and coherence of bands `(20, T)`, and which of them can be heard."""
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in BAND_RANGE_HZ)
    mels = np.linspace(lowest, highest, BANDS + 1)
    edges = np.searchsorted(hz, 700 * (10 ** (mels / 2595) - 1))
    left, right = frames
    sums = (np.add.reduceat(x, edges)[:-1] for x in (np.abs(left) ** 2, np.abs(right) ** 2, left * right.conj()))
    a, b, both = (uniform_filter1d(x, SMOOTHING, axis=1, mode="constant") for x in sums)
    difference = 10 * np.log10((a + 1e-12) / (b + 1e-12))
    return np.clip(difference, -30, 30), np.abs(both) / np.sqrt(a * b + 1e-20), a + b > QUIET * (a + b).max()


def save(folder: Path, excerpts: dict[str, Audio]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, audio in excerpts.items():
        soundfile.write(folder / f"{name}.wav", audio, RATE_HZ, subtype="FLOAT")


def draw(out: Path, rows: list[str]) -> None:
    """Write `OUT/pictures.png`: spectrograms up to 16 kHz of the first excerpt of each row, before and after."""
    figure = new_figure(12, 2.4 * len(rows))
    places = figure.subplots(len(rows), 2, sharex=True, sharey=True, squeeze=False)
    for row, axes in zip(rows, places, strict=True):
        name = min(path.name for path in (out / "original" / row).iterdir())
        for side, place in zip(("original", "codec"), axes, strict=True):
            audio = soundfile.read(out / side / row / name, always_2d=True)[0].mean(axis=1)
            levels = 20 * np.log10(np.abs(stft(audio, RATE_HZ, "hann", WINDOW, WINDOW - HOP)[2]) + 1e-6)
            bins = levels[: round(16_000 * WINDOW / RATE_HZ)]
            span = (0, len(audio) / RATE_HZ, 0, 16)
            place.imshow(bins, origin="lower", aspect="auto", extent=span, cmap="magma", vmin=-100, vmax=-25)
            place.set_title(f"{row}: {side}")
        axes[0].set_ylabel("kHz")
    for place in places[-1]:
        place.set_xlabel("seconds")
    save_figure(figure, out / "pictures.png")


def table(results: dict[str, dict[str, Figures]]) -> str:
    """Return the results as a table, one line for each row and codec."""

    def lines() -> Iterator[str]:
        yield "| recordings | codec | " + " | ".join(COLUMNS.values()) + " |"
        yield "|---" * (len(COLUMNS) + 2) + "|"
        for row, codecs in results.items():
            for name, figures in codecs.items():
                shown = ((figures[key], ",.0f" if key == "bits_per_s" else ".3f") for key in COLUMNS)
                numbers = ("-" if value is None else format(value, how) for value, how in shown)
                yield f"| {row} | {name} | " + " | ".join(numbers) + " |"

    return "\n".join(lines())


if __name__ == "__main__":
    sys.exit(main())
