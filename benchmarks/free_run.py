"""How a trained model goes on when nobody corrects it: free runs from held-out pieces, beside the real thing.

    python benchmarks/free_run.py --meta model.json --out runs [--prompt-seconds 4] [--seconds 6] [--pieces 16]

Writes `OUT/real/` (what the piece really does after the prompt), `OUT/generated/` (what the model does) and
`OUT/codec/` (the real frames through the model's own quantiser and inversion: the ceiling), one WAV per piece in each,
and prints how they compare.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from continuo import listening
from continuo.audio import write_wav
from continuo.command import Parser, run_main
from continuo.piece import Piece
from continuo.sampling import Sampling
from predictor import Predictor, joined


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("free_run.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt-seconds", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--pieces", type=int, default=16, help="held-out pieces that are continued, at most")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--coarse-temperature", type=float, default=1.05)
    parser.add_argument("--fine-temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="free_run.py")


def _run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)  # as predict.py does
    predictor = Predictor.load(arguments.meta)
    rate, frames = predictor.sample_rate_hz, round(arguments.seconds * predictor.steps_per_second)
    sides: dict[str, list[np.ndarray]] = {"real": [], "generated": [], "codec": []}
    for number, piece in enumerate(held_out(predictor, arguments)):
        start = int(rate * 0.5 * (piece.seconds - arguments.prompt_seconds - arguments.seconds))  # the middle
        seam = start + int(arguments.prompt_seconds * rate)
        prompt = Piece.from_samples(piece.samples[start:seam], rate, source=piece.source)
        how = Sampling(arguments.temperature, arguments.coarse_temperature, arguments.fine_temperature)
        take = predictor.take(prompt, seed=arguments.seed + number, how=how)
        made = {
            "real": np.asarray(piece.samples[seam : seam + int(arguments.seconds * rate)]),
            "generated": np.concatenate([*joined(take, prompt, frames, with_prompt=False)]),
            "codec": through_codec(predictor, piece, prompt, seam, frames),
        }
        for side, audio in made.items():
            folder = arguments.out / side
            folder.mkdir(parents=True, exist_ok=True)
            write_wav(folder / f"{Path(piece.source).stem}.wav", [audio], rate)
            sides[side].append(audio)
    results = {}
    for side in ("generated", "codec"):
        results[side] = listening.compare(sides["real"], sides[side], rate)
        results[side]["auc"] = listening.separability(sides["real"], sides[side], rate)
    for side, figures in results.items():
        print(f"{side} against real, {len(sides['real'])} pieces of {arguments.seconds:g} s:")
        print("  " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    if arguments.json:
        print(json.dumps(results))
    return 0


def held_out(predictor: Predictor, arguments: argparse.Namespace) -> list[Piece]:
    """The first validation pieces that are long enough, as the training split them."""
    section, training = predictor.metadata.corpus, predictor.metadata.training
    _, pieces = corpus.load(section, seed=training.seed).split(section.validation_share, training.seed)
    least_s = arguments.prompt_seconds + arguments.seconds + 0.1
    return [piece for piece in pieces if piece.seconds >= least_s][: arguments.pieces]


def through_codec(predictor: Predictor, piece: Piece, prompt: Piece, seam: int, frames: int) -> np.ndarray:
    """The real frames after the prompt, encoded and decoded as a continuation would be."""
    featurizer = predictor.featurizer
    hop = int(predictor.sample_rate_hz / predictor.steps_per_second)
    heard = Piece("whole", "whole", piece.sample_rate_hz, piece.samples[: seam + frames * hop], prompt.loudness_db)
    decoder = featurizer.decoder(prompt)
    made = [decoder.push(step) for step in featurizer.encode_prompt(heard)[-frames:]]
    audio = np.concatenate([*made, decoder.finish()])[decoder.overlap_samples :]
    return audio / np.float32(prompt.gain)


if __name__ == "__main__":
    sys.exit(main())
