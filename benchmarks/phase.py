"""Compare methods of phase reconstruction, and print a table.

    python benchmarks/phase.py [--train 60] [--test 16] [--seed 1]

The default preset's codec is adapted to some chorales and applied to others; each method continues 4 s of real audio
for 6 s, from the true magnitudes of the following music and from quantized ones. Columns: SC, spectral convergence to
the given magnitudes; LSD, log-spectral distance (dB) to the real audio, frame by frame, at the same places; ms per
frame on one thread; the squared MMD and the AUC of `evaluation.audio_metrics`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import corpus
from continuo.audio.phase import PhaseStream, centered, integrate_phases, invert, levels, phasors
from continuo.audio.stft import OverlapAdd
from continuo.codec.vectors import HOP, N_FFT, RATE_HZ
from continuo.model import presets
from evaluation import audio_metrics
from featurizer import CodecFeaturizer, build_featurizer

PROMPT, FRAMES = 4 * RATE_HZ, 6 * RATE_HZ // HOP
FLOOR = 4e-4 * N_FFT / 4
WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


@dataclass(frozen=True)
class Item:
    """A held-out piece: audio (N,), the true complex frames (T, K) after the prompt, and their quantized magnitudes."""

    audio: np.ndarray
    true: np.ndarray
    quantized: np.ndarray

    @property
    def tail(self) -> np.ndarray:
        return self.audio[PROMPT - N_FFT : PROMPT]

    @property
    def continuation(self) -> np.ndarray:
        return self.audio[PROMPT : PROMPT + FRAMES * HOP]


def frames(audio: np.ndarray) -> np.ndarray:
    """Return the complex frames that lie inside the audio: (N,) -> (T, K)."""
    views = np.lib.stride_tricks.sliding_window_view(audio, N_FFT)[::HOP]
    return np.fft.rfft(views * WINDOW, axis=-1).astype(np.complex64)


def held_out_items(train: int, test: int, seed: int) -> list[Item]:
    """Return ten seconds from the middle of `test` chorales, with the default codec adapted to `train` others."""
    wanted = {"corpus.pieces": train + test, "corpus.channels": 1}
    preset = presets.from_preset(presets.DEFAULT_PRESET, wanted, state="unused.safetensors")
    loaded = corpus.load(preset.corpus, seed=seed)
    pieces, others = loaded.split(test / len(loaded.pieces), seed)
    featurizer = build_featurizer(preset)
    assert isinstance(featurizer, CodecFeaturizer)
    featurizer.fit(pieces, seed=seed)
    for _ in featurizer.adapt(pieces, seed=seed):
        pass
    items = []
    for piece in others:
        start = (len(piece.samples) - 10 * RATE_HZ) // 2
        if start < 0:
            continue
        audio = piece.read(start, start + 10 * RATE_HZ)
        true = frames(audio[PROMPT - N_FFT + HOP :])[:FRAMES]
        items.append(Item(audio, true, featurizer.codec.round_trip(torch.from_numpy(true)).numpy()))
    return items


def overlap_add(spectra: np.ndarray) -> np.ndarray:
    """Return the least-squares audio of complex frames, with full sums at the edges: (T, K) -> (N,)."""
    window = WINDOW / np.resize((WINDOW**2).reshape(-1, HOP).sum(0), N_FFT)
    out = np.zeros(N_FFT + (len(spectra) - 1) * HOP, np.float32)
    for i, part in enumerate(np.fft.irfft(spectra, N_FFT, axis=-1)):
        out[i * HOP : i * HOP + N_FFT] += part * window
    return out


def griffin_lim(magnitude: np.ndarray, phasors: np.ndarray, passes: int, momentum: float = 0.0) -> np.ndarray:
    """Run offline (fast) Griffin-Lim: (T, K) magnitudes and first unit phasors -> (T * hop,)."""
    before = None
    for _ in range(passes):
        now = frames(overlap_add(magnitude * phasors))
        ahead = now if before is None else now + momentum * (now - before)
        before, phasors = now, ahead / np.maximum(np.abs(ahead), 1e-20)
    return overlap_add(magnitude * phasors)[N_FFT - HOP :]


def heap_integration(magnitude: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Return the first guess of `PhaseStream` for all frames at once: (T, K) -> unit phasors (T, K)."""
    first = np.fft.rfft(tail * WINDOW)[None].astype(np.complex64)
    level = levels(np.abs(np.concatenate([first, magnitude])))
    return phasors(integrate_phases(level, centered(np.angle(first[0])), N_FFT, HOP))


def random_phasors(magnitude: np.ndarray) -> np.ndarray:
    """Return random unit phasors of the shape of the magnitudes, always the same ones."""
    return np.exp(2j * np.pi * np.random.default_rng(0).random(magnitude.shape)).astype(np.complex64)


def stream(item: Item, magnitude: np.ndarray, **tuning: float) -> np.ndarray:
    """Reconstruct the audio of magnitudes with a `PhaseStream` of other settings: (T, K) -> (T * hop,)."""
    made, overlap = PhaseStream(N_FFT, HOP, tail=item.tail, **tuning), OverlapAdd(N_FFT, HOP, item.tail)  # type: ignore[arg-type]
    rows = np.concatenate([*(made.push(frame) for frame in magnitude), made.finish()])
    return np.concatenate([*map(overlap.push, rows), overlap.finish()])[N_FFT - HOP :]


METHODS: dict[str, Callable[[Item, np.ndarray], np.ndarray]] = {
    "true phase (bound)": lambda i, m: overlap_add(m * np.exp(1j * np.angle(i.true)))[N_FFT - HOP :],
    "Griffin-Lim 32, random phase, offline": lambda i, m: griffin_lim(m, random_phasors(m), 32),
    "fast Griffin-Lim 32 (0.99), offline": lambda i, m: griffin_lim(m, random_phasors(m), 32, 0.99),
    "heap integration, causal": lambda i, m: stream(i, m, block=1, look_ahead=0, passes=0),
    "heap integration, one frame ahead": lambda i, m: stream(i, m, passes=0),
    "fast Griffin-Lim 8 from heap integration, offline": lambda i, m: griffin_lim(
        m, heap_integration(m, i.tail), 8, 0.99
    ),
    "stream, one by one, no look-ahead, 2 imagined frames, 8 passes: causal": lambda i, m: stream(
        i, m, block=1, look_ahead=0, imagined=2, passes=8
    ),
    "stream, one by one, look-ahead 1, 16 passes": lambda i, m: stream(i, m, block=1, passes=16),
    "stream, 8 passes": lambda i, m: stream(i, m, passes=8),
    "stream, defaults": lambda i, m: invert(m, N_FFT, HOP, i.tail)[N_FFT - HOP :],
}


def convergence(audio: np.ndarray, magnitude: np.ndarray) -> float:
    """Return the spectral convergence over the frames that lie wholly after the prompt and before the fade."""
    got = np.abs(frames(audio))[: -N_FFT // HOP]
    first = N_FFT // HOP - 1  # frame j covers [j * hop - n_fft, j * hop)
    want = magnitude[first : first + len(got)]
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def log_distance_db(audio: np.ndarray, real: np.ndarray) -> float:
    """Return the root mean squared distance of the log spectra, in dB."""
    difference = np.log(np.abs(frames(audio)) + FLOOR) - np.log(np.abs(frames(real)) + FLOOR)
    return float(20 / np.log(10) * np.sqrt((difference**2).mean()))


def compare(items: list[Item]) -> None:
    """Print the table."""
    real = [item.continuation for item in items]
    print("| method | magnitudes | SC | LSD dB | ms/frame | MMD2 | AUC |\n|---|---|---|---|---|---|---|")
    for given in ("true", "quantized"):
        for name, method in METHODS.items():
            inputs = [np.abs(item.true) if given == "true" else item.quantized for item in items]
            start = time.perf_counter()
            made = [method(item, magnitude) for item, magnitude in zip(items, inputs, strict=True)]
            cost = 1e3 * (time.perf_counter() - start) / (len(items) * FRAMES)
            error = np.mean([convergence(a, m) for a, m in zip(made, inputs, strict=True)])
            distance = np.mean([log_distance_db(a, item.continuation) for a, item in zip(made, items, strict=True)])
            mmd2 = audio_metrics.compare(real, made, RATE_HZ)["mmd2"]
            auc = audio_metrics.separability(real, made, RATE_HZ)
            print(
                f"| {name} | {given} | {error:.3f} | {distance:.2f} | {cost:.2f} | {mmd2:+.4f} | {auc:.3f} |",
                flush=True,
            )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--train", type=int, default=60, help="number of chorales to fit the codec on (default: 60)")
    parser.add_argument("--test", type=int, default=16, help="number of other chorales to reconstruct (default: 16)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of chorales (default: 1)")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    items = held_out_items(options.train, options.test, options.seed)
    print(f"{len(items)} pieces, one thread of {os.cpu_count()}, numpy {np.__version__}, torch {torch.__version__}")
    compare(items)
    return 0


if __name__ == "__main__":
    sys.exit(main())
