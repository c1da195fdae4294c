"""How good is a trained model? Held-out music, free runs, a long run, novelty, and a verdict in words, as one page.

python evaluate.py
python evaluate.py --meta piano.json --out piano.evaluation --pieces 8 --long 60
python evaluate.py --meta big.json --beside model.json baseline.json

Models of sound and of notes are measured alike as far as they are alike; bits per second of held-out music stand for
both. It needs the corpus that the model was trained on. DIR/report.html is for people, DIR/report.json for programs.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuo.system.command_line import Parser, run_main
from continuo.system.files import check_writable, write_text
from continuo.system.text import printable

if TYPE_CHECKING:
    from evaluation.excerpts import Plan
    from evaluation.sound import Evaluation

TIMES = {"sound": (6.0, 4.0), "notes": (20.0, 8.0)}  # seconds of a continuation and of its prompt


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("evaluate", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: MODEL.evaluation, here)"
    )
    parser.add_argument("--pieces", type=int, default=16, metavar="N", help="excerpts that are continued (default: 16)")
    parser.add_argument("--seconds", type=float, help="of each continuation (default: 6, or 20 of notes)")
    parser.add_argument("--prompt-seconds", type=float, help="of each prompt (default: 4, or 8 of notes)")
    parser.add_argument(
        "--long", type=float, default=120.0, metavar="SECONDS", help="of one long run; 0 skips it (default: 120)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all sampling (default: 0)")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=[], metavar="META", help="other models, to stand in the same tables"
    )
    parser.add_argument("--device", default="cpu", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu (default)")
    parser.add_argument("--force", action="store_true", help="overwrite a report that exists")
    parser.add_argument("--quiet", action="store_true", help="no progress and no words")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="evaluate")


def _run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out or Path(f"{printable(arguments.meta.stem)}.evaluation")
    _check_out(out, force=arguments.force)

    import torch

    from continuo.system.device import choose
    from continuo.system.progress import Display
    from evaluation.notes import NotesEvaluation
    from evaluation.report import page
    from evaluation.sound import Evaluation, SoundEvaluation
    from predictor import Predictor

    torch.set_num_threads(1)  # as predict.py does: a training may want the other cores
    kinds: dict[str, type[Evaluation]] = {"sound": SoundEvaluation, "notes": NotesEvaluation}
    plans = {kind: _plan(arguments, kind) for kind in kinds}
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        predictors = {meta: Predictor.load(meta, device) for meta in (arguments.meta, *arguments.beside)}
        evaluation, *others = (
            kinds[predictors[meta].modality](meta, predictors[meta], plans[predictors[meta].modality], display)
            for meta in (arguments.meta, *arguments.beside)
        )
        report = evaluation.report() | {"beside": [other.brief() for other in others]}
        report["notes"] += [note for other in others for note in _beside(evaluation, other)]
        report = without_nan(report)
        html = page(report, evaluation.draw(report), evaluation.listen())
        out.mkdir(exist_ok=True)
        write_text(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_text(out / "report.html", html)
        _note_on_card(arguments.meta, report)
        for note in report["notes"]:
            display.say(note)
        for finding in report["verdict"]:
            display.say(" ".join(filter(None, [finding["text"], finding["advice"]])))
        display.say(f"{out / 'report.html'}: open it in a browser; {out / 'report.json'} holds every figure")
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    return 0


def _note_on_card(meta: Path, report: dict[str, Any]) -> None:
    """The figures also stand in the model's card, where one can be written."""
    from continuo.model.card import add_evaluation
    from continuo.model.checkpoint import read_model_facts
    from continuo.model.metadata import load, state_path

    state = state_path(load(meta), meta)
    if os.access(state.parent, os.W_OK):
        add_evaluation(state, read_model_facts(state), report)


def _plan(arguments: argparse.Namespace, kind: str) -> "Plan":
    from evaluation.excerpts import Plan

    seconds, prompt_seconds = TIMES[kind]
    seconds = seconds if arguments.seconds is None else arguments.seconds
    prompt_seconds = prompt_seconds if arguments.prompt_seconds is None else arguments.prompt_seconds
    return Plan(arguments.pieces, seconds, prompt_seconds, arguments.long, arguments.seed)


def _beside(evaluation: "Evaluation", other: "Evaluation") -> list[str]:
    """What is to be known when two models stand in one table."""
    notes, path = [], other.predictor.metadata.corpus.path
    if path != evaluation.predictor.metadata.corpus.path:
        notes.append(f"{other.meta_path.stem} was measured on held-out music of its own corpus, {path}")
    if (kind := other.predictor.modality) != evaluation.predictor.modality:
        notes.append(f"{other.meta_path.stem} is a model of {kind}: models of sound pay for how notes sound as well")
    return notes


def _check_out(out: Path, *, force: bool) -> None:
    """Refuse, before any work, a folder that cannot hold the report, or holds one."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    if not out.is_dir():
        check_writable(out, force=False)
        return
    for name in ("report.json", "report.html"):
        check_writable(out / name, force=force)


def without_nan(value: Any) -> Any:
    """`value` with null for every number that JSON has no word for.

    >>> without_nan({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
