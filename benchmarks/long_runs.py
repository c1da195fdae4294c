"""Continue held-out prompts for minutes with a trained model, with several seeds each, and measure the result.

    python benchmarks/long_runs.py --meta model.json [--seconds 120] [--prompts 3] [--seeds 3]
        [--coarse-temperature 1]

Prints mean, minimum and maximum over all runs of: onsets, as a ratio to those of the real pieces (6 s after each of 40
prompts); the fraction of seconds that are 60 dB or more below full scale at the models' loudness; and the level at the
end over that of the first ten seconds, in dB. `evaluate.py` draws one such run.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from continuo.audio.samples import mix_to_mono
from continuo.system.command_line import Parser, run_main
from continuo.system.workers import use_one_thread
from evaluation import long_run
from evaluation.excerpts import excerpts, load_split
from predictor import Predictor

SILENT_DB = -60.0  # over full scale


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("long_runs.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument("--seconds", type=float, default=120.0, help="length of each run (default: 120)")
    parser.add_argument("--prompts", type=int, default=3, help="number of prompts (default: 3)")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs from each prompt (default: 3)")
    parser.add_argument(
        "--coarse-temperature", type=float, help="temperature of the first codes (default: as in the metadata)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="long_runs.py")


def _run(arguments: argparse.Namespace) -> int:
    use_one_thread()
    predictor = Predictor.load(arguments.meta)
    if predictor.modality != "sound":
        raise ValueError(f"{arguments.meta} is a model of notes, and only models of sound are measured")
    rate, how = predictor.sample_rate_hz, predictor.sampling.but(coarse_temperature=arguments.coarse_temperature)
    found = excerpts(load_split(predictor, arguments.meta, corpus.load)[1], count=40, prompt_seconds=4, seconds=6)
    real = float(np.mean([_onsets_per_s(excerpt.real, rate) for excerpt in found]))
    steps, rows = round(arguments.seconds * predictor.steps_per_second), []
    for excerpt in found[: arguments.prompts]:
        for seed in range(100, 100 + arguments.seeds):
            take = predictor.take(excerpt.prompt, seed=seed, sampling=how)
            audio = mix_to_mono(np.concatenate([*take.samples(steps), take.finish()]))
            audio = audio[take.overlap_samples :] * take.gain
            silence = float((long_run.levels_db(audio, rate) < SILENT_DB).mean())
            drift = [*long_run.level_drift(audio, rate).values()][-1]
            rows.append((_onsets_per_s(audio, rate) / real, silence, drift))
    for name, values in zip(
        ("onsets, ratio to real music", "silence", "level at the end, dB"), zip(*rows, strict=True), strict=True
    ):
        print(f"{name}: {np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    return 0


def _onsets_per_s(audio: np.ndarray, rate_hz: int) -> float:
    (onsets,) = long_run.onsets_by_part(audio, rate_hz, len(audio) / rate_hz)
    return onsets


if __name__ == "__main__":
    sys.exit(main())
