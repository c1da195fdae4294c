"""Write the model card of a state, from the template `card.md`, with the header that the Hugging Face Hub expects."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from continuo.model.checkpoint import Facts
from continuo.model.metadata import Json, Metadata
from continuo.system.files import write_text
from continuo.system.paths import command
from continuo.system.text import pluralize

EVALUATION = "\n## Evaluation\n"
FREE_RUN_FIGURES = (
    "onset_ratio", "pulse_ratio", "flux_ratio", "mmd2", "auc", "scale_consistency", "groove_consistency"
)  # fmt: skip


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
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["pluralize"] = pluralize
    meta = Metadata.model_validate(facts["metadata"])
    known = {"folder": Path(meta.corpus.path).name, "music": facts.get("heard", {}), "predict": command("predict")}
    return environment.get_template("card.md").render({**facts, **dict(meta), **known, "name": name})


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
