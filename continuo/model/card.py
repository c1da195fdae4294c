"""Write the model card of a state, from templates in Markdown, with the header that the Hugging Face Hub expects."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from continuo.model.checkpoint import Facts
from continuo.model.metadata import Json, Metadata
from continuo.system.files import write_text
from continuo.system.paths import command
from continuo.system.text import pluralize

EVALUATION = "\n## Evaluation\n"


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
    write_text(path, text.partition(EVALUATION)[0] + EVALUATION + _filled("evaluation.md", report))


def card(name: str, facts: Facts) -> str:
    """Return the card without an evaluation; only the name of the corpus folder is given, not its path."""
    meta = Metadata.model_validate(facts["metadata"])
    known = {"folder": Path(meta.corpus.path).name, "music": facts.get("amounts", {}), "predict": command("predict")}
    return _filled("card.md", {**facts, **dict(meta), **known, "name": name})


def _filled(template: str, values: Json) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["pluralize"] = pluralize
    return environment.get_template(template).render(values)
