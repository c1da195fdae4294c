"""How good is a trained model? Held-out music, free runs, a long run, novelty, and a verdict in words, as one page.

python evaluate.py
python evaluate.py --meta piano.json --out piano.evaluation --pieces 8 --long 60
python evaluate.py --meta big.json --beside model.json baseline.json

It needs the corpus that the model was trained on. DIR/report.html is for people, DIR/report.json for programs.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from continuo.command import Parser, printable, run_main
from continuo.files import check_writable, write_text


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("evaluate.py", __doc__)
    parser.add_argument("--meta", type=Path, default=Path("model.json"), help="metadata file (default: model.json)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: MODEL.evaluation, here)"
    )
    parser.add_argument("--pieces", type=int, default=16, metavar="N", help="excerpts that are continued (default: 16)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each continuation (default: 6)")
    parser.add_argument("--prompt-seconds", type=float, default=4.0, help="of each prompt (default: 4)")
    parser.add_argument(
        "--long", type=float, default=120.0, metavar="SECONDS", help="of one long run; 0 skips it (default: 120)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all sampling (default: 0)")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=[], metavar="META", help="other models, to stand in the same tables"
    )
    parser.add_argument("--device", default="cpu", help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu (default)")
    parser.add_argument("--force", action="store_true", help="overwrite a report that exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _run(arguments), name="evaluate.py")


def _run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out or Path(f"{printable(arguments.meta.stem)}.evaluation")
    _check_out(out, force=arguments.force)

    import torch

    from continuo.device import choose
    from continuo.progress import Display
    from continuo.webpage import page
    from evaluation import Evaluation, draw, listen
    from excerpts import Plan

    torch.set_num_threads(1)  # as predict.py does: a training may want the other cores
    times = (arguments.seconds, arguments.prompt_seconds, arguments.long)
    plan = Plan(arguments.pieces, *times, arguments.seed)
    device, _ = choose(arguments.device)
    with Display(quiet=arguments.quiet) as display:
        others = [Evaluation(meta, plan, device, display) for meta in arguments.beside]
        evaluation = Evaluation(arguments.meta, plan, device, display)
        report = evaluation.report() | {"beside": [other.brief() for other in others]}
        heard = [other.predictor.metadata.corpus.path for other in others]
        report["notes"] += [
            f"{other.meta_path.stem} was measured on held-out music of its own corpus, {path}"
            for other, path in zip(others, heard, strict=True)
            if path != evaluation.predictor.metadata.corpus.path
        ]
        report = without_nan(report)
        html = page(report, draw(evaluation, report), listen(evaluation))
        out.mkdir(exist_ok=True)
        write_text(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_text(out / "report.html", html)
        for note in report["notes"]:
            display.say(note)
        for finding in report["verdict"]:
            display.say(" ".join(filter(None, [finding["text"], finding["advice"]])))
        display.say(f"{out / 'report.html'}: open it in a browser; {out / 'report.json'} holds every figure")
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    return 0


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
