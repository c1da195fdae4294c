"""Measure how good a trained model is, and write the figures, sounds and a diagnosis in words to one page.

    %(prog)s
    %(prog)s --meta piano.json --out piano.evaluation --pieces 8 --long 60
    %(prog)s --meta big.json --beside model.json baseline.json

The model predicts held-out music, continues excerpts of it, plays for long, and is compared with its training music.
The corpus of the training must still be there. DIR/report.html is for people, DIR/report.json for programs.
"""

import argparse
import json
import sys
from pathlib import Path

from continuo.system.command_line import Parser, run_main
from continuo.system.files import check_writable, write_text
from continuo.system.text import printable

TIMES = {"sound": {"seconds": 6.0, "prompt_seconds": 4.0}, "notes": {"seconds": 20.0, "prompt_seconds": 8.0}}
"""The default lengths of a continuation and of its prompt, by modality."""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("evaluate", __doc__)
    add = parser.add_argument
    add("--meta", type=Path, default=Path("model.json"), help="metadata file of the model (default: model.json)")
    add("--out", type=Path, metavar="DIR", help="folder for the report (default: MODEL.evaluation, in this folder)")
    add("--pieces", type=int, default=16, metavar="N", help="number of excerpts to continue (default: 16)")
    add("--seconds", type=float, help="length of each continuation (default: 6 for sound, 20 for notes)")
    add("--prompt-seconds", type=float, help="length of each prompt (default: 4 for sound, 8 for notes)")
    long_help = "length of one long run, or 0 for none (default: 120)"
    add("--long", type=float, default=120.0, metavar="SECONDS", help=long_help)
    add("--seed", type=int, default=0, help="seed of all sampling (default: 0)")
    add("--beside", type=Path, nargs="+", default=[], metavar="META", help="other models to show in the same tables")
    add("--device", default="cpu", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu (default: cpu)")
    add("--force", action="store_true", help="overwrite an existing report")
    add("--quiet", action="store_true", help="show no progress and no findings")
    add("--json", action="store_true", help="print the figures as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="evaluate")


def _run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out or Path(f"{printable(arguments.meta.stem)}.evaluation")
    _check_out(out, force=arguments.force)

    from continuo.model.metadata import Json
    from continuo.system.device import choose
    from continuo.system.progress import Display
    from continuo.system.workers import use_one_thread
    from evaluation.base import Plan
    from evaluation.notes import NotesEvaluation
    from evaluation.report import page
    from evaluation.sound import SoundEvaluation
    from predictor import Predictor

    use_one_thread()  # a training on the same machine may need the other cores
    kinds: dict[str, type[SoundEvaluation | NotesEvaluation]] = {"sound": SoundEvaluation, "notes": NotesEvaluation}
    given = {name: value for name in ("seconds", "prompt_seconds") if (value := getattr(arguments, name)) is not None}
    constant = {"long_seconds": arguments.long, "seed": arguments.seed} | given
    plans = {modality: Plan(arguments.pieces, **times | constant) for modality, times in TIMES.items()}
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        loaded = [(meta, Predictor.load(meta, device)) for meta in (arguments.meta, *arguments.beside)]
        evaluation, *others = [
            kinds[predictor.modality](meta, predictor, plans[predictor.modality], display) for meta, predictor in loaded
        ]
        measured = json.dumps(evaluation.report(others))
        report: Json = json.loads(measured, parse_constant=lambda name: None)  # JSON has no NaN and no infinity
        html = page(report, evaluation.draw(report), evaluation.sounds())
        out.mkdir(exist_ok=True)
        write_text(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_text(out / "report.html", html)
        evaluation.write_to_card(report)
        findings = [" ".join(filter(None, [finding["text"], finding["advice"]])) for finding in report["verdict"]]
        for line in [*report["notes"], *findings]:
            display.say(line)
        display.say(f"{out / 'report.html'}: open it in a browser; {out / 'report.json'} holds every figure")
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    return 0


def _check_out(out: Path, *, force: bool) -> None:
    """Check, before any work, that the report can be written and that none exists; `force` allows to overwrite one."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    for path in (out / "report.json", out / "report.html") if out.is_dir() else (out,):
        check_writable(path, force=force)


if __name__ == "__main__":
    sys.exit(main())
