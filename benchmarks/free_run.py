"""Continue excerpts of held-out pieces with a trained model, and compare the result with the real music.

    python benchmarks/free_run.py --meta model.json --out runs [--prompt-seconds 4] [--seconds 6] [--pieces 16]

Writes `OUT/real/` (what the piece really does after the prompt), `OUT/generated/` (what the model does) and
`OUT/codec/` (the real music through the model's codec, which is the upper bound), one WAV for each excerpt, and prints
the comparison. `evaluate.py` measures the same and more.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from continuo.audio.files import write_wav
from continuo.system.command_line import Parser, run_main
from continuo.system.workers import use_one_thread
from evaluation.excerpts import excerpts, load_split
from evaluation.sound import free_run, similarity, through_codec
from predictor import Predictor


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("free_run.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the WAVs")
    parser.add_argument("--prompt-seconds", type=float, default=4.0, help="length of each prompt (default: 4)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each continuation (default: 6)")
    parser.add_argument("--pieces", type=int, default=16, help="largest number of excerpts (default: 16)")
    parser.add_argument("--temperature", type=float, default=1.0, help="temperature of sampling (default: 1)")
    parser.add_argument(
        "--coarse-temperature", type=float, help="temperature of the first codes (default: as in the metadata)"
    )
    parser.add_argument(
        "--fine-temperature", type=float, help="temperature of the later codes (default: as in the metadata)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all sampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="free_run.py")


def _run(arguments: argparse.Namespace) -> int:
    use_one_thread()  # as predict.py does
    predictor = Predictor.load(arguments.meta)
    if predictor.modality != "sound":
        raise ValueError(f"{arguments.meta} is a model of notes: measure it with evaluate.py --meta {arguments.meta}")
    rate = predictor.sample_rate_hz
    how = predictor.sampling.but(
        temperature=arguments.temperature,
        coarse_temperature=arguments.coarse_temperature,
        fine_temperature=arguments.fine_temperature,
    )
    times = {"prompt_seconds": arguments.prompt_seconds, "seconds": arguments.seconds}
    found = excerpts(load_split(predictor, arguments.meta, corpus.load)[1], count=arguments.pieces, **times)
    sides: dict[str, list[np.ndarray]] = {"real": [], "generated": [], "codec": []}
    for number, excerpt in enumerate(found):
        made = {
            "real": excerpt.real,
            "generated": free_run(predictor, excerpt, seed=arguments.seed + number, how=how),
            "codec": through_codec(predictor, excerpt),
        }
        for side, audio in made.items():
            folder = arguments.out / side
            folder.mkdir(parents=True, exist_ok=True)
            write_wav(folder / f"{excerpt.name}.wav", [audio], rate)
            sides[side].append(audio)
    results = {side: similarity(sides["real"], sides[side], rate) for side in ("generated", "codec")}
    for side, figures in results.items():
        print(f"{side} against real, {len(sides['real'])} excerpts of {arguments.seconds:g} s:")
        print("  " + ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in figures.items()))
    if arguments.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
