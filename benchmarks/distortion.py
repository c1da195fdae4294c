"""Measure what a model's codec loses and what its codes cost, on held-out music, without phase reconstruction.

    python benchmarks/distortion.py --meta model.json [--pieces 24] [--seconds 30]

Prints the root mean squared error of the log magnitudes up to 8 kHz, in dB, with and without the post-filter; the floor
of the codec is added to both sides first. It also prints the held-out loss of the weights that predict, as the training
measured it, in nats per step and in nats and bits per second. The better of two codecs loses less at as many bits; a
loss alone says nothing.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from continuo.audio.postfilter import pad_edges
from continuo.audio.stft import spectrum
from continuo.system.command_line import Parser, run_main
from evaluation.excerpts import load_split
from featurizer import CodebookFeaturizer
from predictor import Predictor

MAX_HZ = 8000
DB = 20 / math.log(10)  # dB of 1 in natural logarithm


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("distortion.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument("--pieces", type=int, default=24, help="largest number of held-out pieces (default: 24)")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="seconds of each piece, from its beginning (default: 30)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="distortion.py")


@torch.no_grad()
def _run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    predictor = Predictor.load(arguments.meta)
    featurizer = predictor.featurizer
    if not isinstance(featurizer, CodebookFeaturizer):
        raise ValueError(f"{arguments.meta} has no codebook: its frames are not quantized")
    n_fft, hop = featurizer.section.n_fft, featurizer.section.hop
    codec, rate = featurizer.codec, predictor.sample_rate_hz
    audible = torch.from_numpy(np.arange(n_fft // 2 + 1) * rate / n_fft <= MAX_HZ)
    errors: dict[str, list[float]] = {"codes alone": [], "with the post-filter": []}
    for piece in load_split(predictor, arguments.meta, corpus.load)[1][: arguments.pieces]:
        samples = piece.read(0, min(len(piece.samples), round(arguments.seconds * rate)))
        if len(samples) < n_fft:
            continue
        real = codec.vectors(spectrum(np.ascontiguousarray(samples), n_fft, hop))
        components = codec.codebook.quantize(real)
        decoded = codec.codebook.reconstruct(components)
        made = decoded, decoded + codec.postfilter(pad_edges(components))
        for found, frames in zip(errors.values(), made, strict=True):
            found.append(((frames - real) / codec.weight)[:, audible].square().mean().item())
    nats = predictor.facts["progress"].best_nats
    if nats is None or not errors["codes alone"]:
        raise ValueError(f"{arguments.meta} was never validated, or no held-out piece is as long as a window")
    for name, squares in errors.items():
        print(f"{name}: {DB * math.sqrt(np.mean(squares)):.2f} dB")
    nats_per_second = nats * predictor.steps_per_second
    bits = nats_per_second / math.log(2)
    print(f"held-out loss: {nats:.2f} nats per step, {nats_per_second:.0f} nats and {bits:.0f} bits per second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
