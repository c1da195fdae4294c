"""The model card beside a state: what a model heard, what it is, how good it is, and how to use it, as Markdown.

Its head follows the model cards of the Hugging Face Hub, so that a folder can be shared as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from continuo.system.files import write_text

EVALUATION = "\n## Evaluation\n"
COMMAND = "python predict.py --meta {meta} --prompt song.musicxml --frames 500"
CODE = """\
from pathlib import Path
from predictor import Predictor

predictor = Predictor.load(Path("{meta}"))
take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
"""


def card_path(state_path: Path) -> Path:
    """The card of a state: `model.card.md` of `model.safetensors`."""
    return state_path.with_suffix(".card.md")


def write_card(state_path: Path, facts: Mapping[str, Any], *, keep_evaluation: bool) -> None:
    """Write the card of a state from its facts; what `evaluate.py` found stays in it where that is asked for."""
    path = card_path(state_path)
    text = card(state_path.stem, facts)
    if keep_evaluation and path.exists():
        text += "".join(path.read_text(encoding="utf-8").partition(EVALUATION)[1:])
    write_text(path, text)


def add_evaluation(state_path: Path, facts: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write what an evaluation found to the end of a card, in place of what was found before."""
    path = card_path(state_path)
    text = path.read_text(encoding="utf-8") if path.exists() else card(state_path.stem, facts)
    write_text(path, text.partition(EVALUATION)[0] + EVALUATION + evaluation(report))


def card(name: str, facts: Mapping[str, Any]) -> str:
    """The card without an evaluation; a corpus is named by its folder alone, wherever that is."""
    meta, progress, heard = facts["metadata"], facts["progress"], facts.get("heard", {})
    corpus, training = meta["corpus"], meta["training"]
    licence = corpus.get("licence", "not stated")
    sizes = {kind: {k: v for k, v in meta[kind].items() if k != "kind"} for kind in ("representation", "architecture")}
    lines = [f"- **Corpus**: {Path(corpus['path']).name}{_amount(heard, '')}{_amount(heard, 'held_out_')}"]
    lines += [f"- **Licence of the corpus**: {licence}"]
    for kind, values in sizes.items():
        listed = ", ".join(f"{key} {value}" for key, value in values.items())
        lines.append(f"- **{kind.capitalize()}**: {meta[kind]['kind']} ({listed})")
    if heard:
        lines.append(f"- **Size**: {heard['parameters']:,} parameters, {heard['steps_per_second']:g} steps a second")
    rate = f"{corpus['sample_rate_hz']:,} Hz"
    lines.append(f"- **Training**: {progress['step']:,} steps in {progress['seconds'] / 60:.1f} minutes, seed "
                 f"{training['seed']}, {facts['precision']}, sound at {rate}, Continuo {facts['version']}")  # fmt: skip
    if begun_with := facts.get("begun_with"):
        lines.append(f"- **Begun with**: {begun_with}")
    if progress["best_nats"] is not None:
        now = f"; {progress['validation_nats']:.2f} at the last step, {progress['train_nats']:.2f} while training"
        best = f"{progress['best_nats']:.2f} at step {progress['best_step']:,}"
        lines.append(f"- **Held-out nats per step**: {best}{now}")
    command, code = (words.format(meta=f"{name}.json") for words in (COMMAND, CODE))
    return (
        f"---\nlibrary_name: continuo\ntags: [music, audio]\n---\n\n"
        f"# {name}\n\nA model that continues music, trained with Continuo.\n\n" + "\n".join(lines) + "\n\n## Use\n\n"
        f"Keep `{name}.json` and `{name}.safetensors` in one folder.\n\n```\n{command}\n```\n\n```python\n{code}```\n"
    )


def _amount(heard: Mapping[str, Any], which: str) -> str:
    if not heard:
        return ""
    pieces, seconds = heard[f"{which}pieces"], heard[f"{which}seconds"]
    length = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    return f", {pieces:,} piece{'s' * (pieces != 1)} of {length} {'held out' if which else 'to learn from'}"


def evaluation(report: Mapping[str, Any]) -> str:
    """The figures of a report that say most, and its verdict."""
    model, held_out, runs = report["model"], report["held_out"]["model"], report["free_runs"]["generated"]
    figures = {
        "held-out nats per step": held_out.get("nats_per_step"),
        "held-out bits per second": held_out.get("bits_per_second"),
        **{
            name.replace("_", " "): runs.get(name)
            for name in ("onset_ratio", "pulse_ratio", "flux_ratio", "mmd2", "auc")
        },
        **{name.replace("_", " "): runs.get(name) for name in ("scale_consistency", "groove_consistency")},
    }
    shown = {n: f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for n, v in figures.items() if v is not None}
    rows = [f"| {name} | {value} |" for name, value in shown.items()]
    verdict = [f"- {' '.join(filter(None, [entry['text'], entry['advice']]))}" for entry in report["verdict"]]
    head = f"\nBy `evaluate.py`, of the weights of step {model['weights_step']:,}.\n\n| | |\n|---|---|\n"
    return head + "\n".join(rows) + "\n\n" + "\n".join(verdict) + "\n"
