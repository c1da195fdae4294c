"""Make the metadata of a new model: from a preset in `models/`, or from the state of another model."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from continuo.model.metadata import BY_KIND, EMBEDDED_CORPUS, FITTING, OTHER_START, Json, Metadata, read_json, validated
from continuo.system.paths import MODELS
from continuo.system.text import suggestion

DEFAULT_PRESET = "codec-lstm"


def preset_names() -> list[str]:
    """Return the names of the presets in `models/`."""
    return sorted(path.stem for path in MODELS.glob("*.json"))


def from_preset(name: str, overrides: Json, *, state: str) -> Metadata:
    """Return the metadata of a preset with values by dotted keys in place of its own.

    Another corpus than the preset's is rendered with the instruments that its scores name. Keys that an overridden kind
    of a section does not have are left out. ValueError: there is no such preset, or an override is refused.
    """
    if name not in (names := preset_names()):
        raise ValueError(f"there is no preset {name!r}, only {', '.join(names)}{suggestion(name, names)}")
    content = read_json(MODELS / f"{name}.json") | {"state": state}
    if overrides.get("corpus.path", EMBEDDED_CORPUS) != EMBEDDED_CORPUS:
        content["corpus"] = content["corpus"] | {"program": None}
    for section, models in BY_KIND.items():
        if model := models.get(str(overrides.get(f"{section}.kind"))):
            content[section] = {key: value for key, value in content[section].items() if key in model.model_fields}
    return validated(content, overrides, source=f"preset {name}")


def renewed(content: Json, overrides: Json, *, source: str, state: str) -> Metadata:
    """Return the retired metadata of an earlier version with the default preset's codec, rate and channels.

    A missing architecture is that of the default preset, and a missing name of the state is `state`. ValueError: an
    override or another key is refused; `source` names the metadata.
    """
    preset = read_json(MODELS / f"{DEFAULT_PRESET}.json")
    rate = {f"corpus.{key}": preset["corpus"][key] for key in ("sample_rate_hz", "channels")}
    codec = {"representation": preset["representation"], "sampling": {}}  # its temperatures suit the old codes
    missing = {"architecture": preset["architecture"], "state": state}
    return validated(missing | content | codec, rate | overrides, source=source)


def from_donor(donor: Mapping[str, Any], overrides: Json, *, state: str) -> Metadata:
    """Return the metadata of a model that starts from another's weights: its shape, rate, channels; default training.

    `donor`: the metadata in the other state. ValueError: it is of another version, or an override is refused.
    """
    shape = {key: value for key, value in donor.get("representation", {}).items() if key not in FITTING}
    content = {"representation": shape, "architecture": donor.get("architecture"), "state": state}
    for section in BY_KIND:
        theirs, wanted = donor.get(section, {}).get("kind"), overrides.get(f"{section}.kind")
        if wanted not in (None, theirs):
            raise ValueError(f"--from: the {section} of that state is {theirs}, so a {wanted} cannot start from it")
    content["corpus"] = {k: v for k, v in donor.get("corpus", {}).items() if k in ("sample_rate_hz", "channels")}
    try:
        validated(content, {}, source="--from")
    except ValueError as error:  # it is of an earlier version
        raise ValueError(f"{error}: {OTHER_START}") from None
    return validated(content, overrides, source="--from")


def matches_preset(metadata: Metadata, name: str) -> bool:
    """Return True if metadata has the kinds of representation and architecture of a preset."""
    preset = from_preset(name, {}, state="any.safetensors")
    return all(getattr(metadata, section).kind == getattr(preset, section).kind for section in BY_KIND)


def parse_assignments(assignments: Iterable[str]) -> Json:
    """Return `KEY=VALUE` words as a dictionary; VALUE is JSON, or text if it is not valid JSON.

    >>> parse_assignments(["training.batch_size=16", "corpus.path=~/music"])
    {'training.batch_size': 16, 'corpus.path': '~/music'}
    """
    values: Json = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word}: write KEY=VALUE, for example training.batch_size=16")
        try:
            values[key] = json.loads(value)
        except (ValueError, RecursionError):
            values[key] = value
    return values
