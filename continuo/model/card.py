"""Write the model card of a state in Markdown, with the header that the Hugging Face Hub expects."""

from collections.abc import Mapping
from pathlib import Path

from continuo.model.checkpoint import Facts
from continuo.model.metadata import Json, Metadata
from continuo.system.files import write_text
from continuo.system.paths import command
from continuo.system.text import pluralize

EVALUATION = "\n## Evaluation\n"
FREE_RUN_FIGURES = (
    "onset_ratio", "pulse_ratio", "flux_ratio", "mmd2", "auc", "scale_consistency", "groove_consistency"
)  # fmt: skip
CODE = """\
from pathlib import Path
from predictor import Predictor

predictor = Predictor.load(Path("{meta}"))
take = predictor.take(predictor.prompt(Path("song.musicxml")), seed=1)
"""


def card_path(state_path: Path) -> Path:
    """Return the path of the card of a state: `model.card.md` for `model.safetensors`."""
    return state_path.with_suffix(".card.md")


def write_card(state_path: Path, facts: Facts, *, keep_evaluation: bool) -> None:
    """Write the card of a state; the results of `evaluate.py` in an existing card stay if `keep_evaluation`."""
    path = card_path(state_path)
    text = card(state_path.stem, facts)
    if keep_evaluation and path.exists():
        text += "".join(path.read_text(encoding="utf-8").partition(EVALUATION)[1:])
    write_text(path, text)


def add_evaluation(state_path: Path, facts: Facts, report: Json) -> None:
    """Write the results of an evaluation to the end of a card, in place of those of an earlier one."""
    path = card_path(state_path)
    text = path.read_text(encoding="utf-8") if path.exists() else card(state_path.stem, facts)
    write_text(path, text.partition(EVALUATION)[0] + EVALUATION + evaluation(report))


def card(name: str, facts: Facts) -> str:
    """Return the card without an evaluation; only the name of the corpus folder is given, not its path."""
    meta, progress, music = Metadata.model_validate(facts["metadata"]), facts["progress"], facts.get("heard", {})
    corpus = meta.corpus
    lines = [
        f"- **Corpus**: {Path(corpus.path).name}{_amount(music, '')}{_amount(music, 'held_out_')}",
        f"- **License of the corpus**: {corpus.licence}",
    ]
    for section in ("representation", "architecture"):
        values = getattr(meta, section).model_dump()
        kind = values.pop("kind")
        lines.append(f"- **{section.capitalize()}**: {kind} ({', '.join(f'{k} {v}' for k, v in values.items())})")
    if music:
        lines.append(f"- **Size**: {music['parameters']:,} parameters, {music['steps_per_second']:g} steps a second")
    lines.append(f"- **Training**: {progress.step:,} steps in {progress.seconds / 60:.1f} minutes, seed "
                 f"{meta.training.seed}, {facts['precision']}, sound at {corpus.sample_rate_hz:,} Hz, "
                 f"Continuo {facts['version']}")  # fmt: skip
    if start := facts.get("begun_with"):
        lines.append(f"- **Started from**: {start}")
    if progress.best_nats is not None:
        best = f"{progress.best_nats:.2f} at step {progress.best_step:,}"
        last = f"{progress.validation_nats:.2f} at the last step"
        lines.append(f"- **Held-out loss (nats per step)**: {best}; {last}; {progress.train_nats:.2f} in training")
    words = f"{command('predict')} --meta {name}.json --prompt song.musicxml --frames 500"
    code = CODE.format(meta=f"{name}.json")
    return (
        f"---\nlibrary_name: continuo\ntags: [music, audio]\n---\n\n"
        f"# {name}\n\nA model that continues music, trained with Continuo.\n\n" + "\n".join(lines) + "\n\n## Use\n\n"
        f"Keep `{name}.json` and `{name}.safetensors` in one folder.\n\n```\n{words}\n```\n\n```python\n{code}```\n"
    )


def _amount(music: Mapping[str, float], prefix: str) -> str:
    if not music:
        return ""
    pieces, seconds = music[f"{prefix}pieces"], music[f"{prefix}seconds"]
    length = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
    return f", {pluralize(int(pieces), 'piece')} of {length} {'held out' if prefix else 'for training'}"


def evaluation(report: Json) -> str:
    """Return the main figures of an evaluation report and its verdict."""
    model, held_out, runs = report["model"], report["held_out"]["model"], report["free_runs"]["generated"]
    figures = {
        "held-out loss (nats per step)": held_out.get("nats_per_step"),
        "held-out bits per second": held_out.get("bits_per_second"),
    } | {name.replace("_", " "): runs.get(name) for name in FREE_RUN_FIGURES}
    stated = {name: value for name, value in figures.items() if value is not None}
    rows = [f"| {name} | {f'{value:,.0f}' if value >= 100 else f'{value:.3g}'} |" for name, value in stated.items()]
    verdict = [f"- {' '.join(filter(None, [entry['text'], entry['advice']]))}" for entry in report["verdict"]]
    head = f"\nBy `evaluate.py`, with the weights of step {model['weights_step']:,}.\n\n| | |\n|---|---|\n"
    return head + "\n".join(rows) + "\n\n" + "\n".join(verdict) + "\n"
