"""What a model's codec loses, and what its codes cost: held-out music through the quantiser, without inversion.

    python benchmarks/distortion.py --meta model.json [--pieces 24] [--seconds 30]

Prints the root of the mean squared error of the logarithms of magnitude up to 8 kHz, in dB, by look-up alone and with
the post-filter; the floor of the codec is added to both sides first. Beside it stand the held-out nats a step of the
weights that predict, as training measured them, and nats and bits a second. Of two codecs the one that loses less for
as many bits is better; a nat by itself says nothing.
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
DB = 20 / math.log(10)  # of a natural logarithm


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("distortion.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"))
    parser.add_argument("--pieces", type=int, default=24, help="held-out pieces, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the beginning of each")
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
        raise ValueError(f"{arguments.meta} has no codebook: its frames are not quantised")
    n_fft, hop = featurizer.section.n_fft, featurizer.section.hop
    codec, rate = featurizer.codec, predictor.sample_rate_hz
    heard = torch.from_numpy(np.arange(n_fft // 2 + 1) * rate / n_fft <= MAX_HZ)
    errors: dict[str, list[float]] = {"look-up": [], "with the post-filter": []}
    for piece in load_split(predictor, arguments.meta, corpus.load)[1][: arguments.pieces]:
        samples = piece.read(0, min(len(piece.samples), round(arguments.seconds * rate)))
        if len(samples) < n_fft:
            continue
        real = codec.vectors(spectrum(np.ascontiguousarray(samples), n_fft, hop))
        components = codec.codebook.quantize(real)
        decoded = codec.codebook.reconstruct(components)
        made = decoded, decoded + codec.postfilter(pad_edges(components))
        for found, frames in zip(errors.values(), made, strict=True):
            found.append(((frames - real) / codec.weight)[:, heard].square().mean().item())
    nats = predictor.facts["progress"].best_nats
    if nats is None or not errors["look-up"]:
        raise ValueError(f"{arguments.meta} was never validated, or no held-out piece lasts a window")
    for name, squares in errors.items():
        print(f"{name}: {DB * math.sqrt(np.mean(squares)):.2f} dB")
    a_second = nats * predictor.steps_per_second
    print(f"held-out: {nats:.2f} nats a step, {a_second:.0f} nats and {a_second / math.log(2):.0f} bits a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
