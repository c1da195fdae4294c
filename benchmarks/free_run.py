"""Continue excerpts of held-out pieces with a trained model, and compare the result with the real music.

    python benchmarks/free_run.py --meta model.json --out runs [--prompt-seconds 4] [--seconds 6] [--pieces 16]
    python benchmarks/free_run.py --corpus DIR --prompts DIR --out runs [--minutes 10] [--from STATE]

With `--corpus` a model is trained on it first, into `--meta`, which `train.py` continues if it is there. With
`--prompts` the recordings of that folder, none of them in the corpus, take the place of the model's held-out pieces.

Writes `OUT/real/` (what the piece really does after the prompt), `OUT/generated/` (what the model does) and
`OUT/codec/` (the real music through the model's codec, which is the upper bound), one WAV for each excerpt, and prints
the comparison. `evaluate.py` measures the same and more.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import corpus
from continuo.audio.files import write_wav
from continuo.system.command_line import Parser, run_main
from continuo.system.workers import use_one_thread
from evaluation.excerpts import excerpts, load_split
from evaluation.sound import free_run, similarity, through_codec
from predictor import Predictor


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("free_run.py", __doc__)
    parser.add_argument("--meta", type=Path, help="metadata file (default: model.json; with --corpus: OUT/model.json)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the WAVs")
    parser.add_argument("--corpus", metavar="DIR", help="folder of music to train on first")
    parser.add_argument("--prompts", metavar="DIR", help="folder of recordings to continue")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes to train (default: 10)")
    parser.add_argument("--from", dest="start_from", metavar="STATE", help="state to train from; see train.py")
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
    meta = arguments.meta or (arguments.out / "model.json" if arguments.corpus else Path("model.json"))
    if arguments.corpus and (status := trained(meta, arguments)):
        return status
    use_one_thread()  # as predict.py does
    predictor = Predictor.load(meta)
    if predictor.modality != "sound":
        raise ValueError(f"{meta} is a model of notes: measure it with evaluate.py --meta {meta}")
    rate = predictor.sample_rate_hz
    how = predictor.sampling.but(
        temperature=arguments.temperature,
        coarse_temperature=arguments.coarse_temperature,
        fine_temperature=arguments.fine_temperature,
    )
    times = {"prompt_seconds": arguments.prompt_seconds, "seconds": arguments.seconds}
    if arguments.prompts:
        section = predictor.in_channels(predictor.metadata.corpus).model_copy(update={"path": arguments.prompts})
        pieces = list(corpus.load(section).pieces)
    else:
        pieces = load_split(predictor, meta, corpus.load)[1]
    found = excerpts(pieces, count=arguments.pieces, **times)
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


def trained(meta: Path, arguments: argparse.Namespace) -> int:
    """Train the default preset on the corpus in a process of its own, and return the exit status."""
    meta.parent.mkdir(parents=True, exist_ok=True)
    script = [sys.executable, str(ROOT / "train.py"), "--meta", str(meta), "--corpus", arguments.corpus]
    start = ["--from", arguments.start_from] if arguments.start_from else []
    return subprocess.run([*script, "--minutes", str(arguments.minutes), *start], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
