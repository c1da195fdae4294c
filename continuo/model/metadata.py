"""The metadata dictionary (`model.json`): every choice of a model in one validated, immutable place.

Sections: corpus (what is heard), representation (how sound becomes a stream), architecture (what continues the
stream), training (how long and how), sampling (how it is continued), and `state`, the file beside the JSON that
training writes. Keys are checked at the border: an unknown key or an impossible value is refused by name.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import regex
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from continuo.system.files import human_size, is_locked, suggest_path, write_text
from continuo.system.paths import MODELS
from continuo.system.text import suggestion

PRESETS = MODELS
DEFAULT_PRESET = "codebook-lstm"
EMBEDDED_CORPUS = "music21:bach"
MAX_BYTES = 2**20
"""Of a metadata file; one that names every key has about a thousand."""
MAX_PATTERN_LETTERS = 1000
MAX_PATTERNS = 100
"""Of `include` and `exclude`: each pattern, and how many."""
MAX_TEMPERATURE = 100.0
"""Beyond, every class is as likely as any other."""
FITTING = ("fit_frames", "postfilter_steps")
"""Of a representation: how it is fitted, not what it is."""
MAX_REASONS = 5
"""How many of a file's mistakes are named at once."""


Json = dict[str, Any]  # an object of a JSON file that is not validated yet


@with_config(ConfigDict(extra="allow"))
class SavedMetadata(TypedDict):
    """The metadata of a state, checked only as far as they must be before they are compared with the metadata file."""

    corpus: Json
    representation: Json
    architecture: Json


class Section(BaseModel):
    """A part of the metadata: unknown keys, NaN and later changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        for key, field in cls.model_fields.items() if isinstance(values, dict) else ():
            if isinstance(values.get(key), bool) and field.annotation is not bool:
                raise ValueError(f"{key} is {str(values[key]).lower()}, which is neither a number nor a word")
        return values


def _without_control(value: str) -> str:
    if any(ord(letter) < 32 for letter in value):
        raise ValueError(f"{value!r} holds control characters: no path of yours does")
    return value


Place = Annotated[str, Field(max_length=4096), AfterValidator(_without_control)]
Patterns = Annotated[tuple[Annotated[str, Field(max_length=MAX_PATTERN_LETTERS)], ...], Field(max_length=MAX_PATTERNS)]


class CorpusSection(Section):
    """What is heard. `include` and `exclude` are regular expressions (of the `regex` package) on relative paths."""

    path: Place = EMBEDDED_CORPUS
    include: Patterns = ()
    exclude: Patterns = ()
    sample_rate_hz: int = Field(24000, ge=4000, le=192000)
    program: int | None = Field(None, ge=0, le=127, description="General MIDI program for scores; null: as written")
    programs: tuple[Annotated[int, Field(ge=0, le=127)], ...] = Field(
        (), description="General MIDI programs whose notes are read, by models of notes; none: all"
    )
    soundfont: Place | None = None
    licence: str = Field("not stated", description="of the recordings, for the model card")
    validation_share: float = Field(0.1, gt=0, lt=1)
    pieces: int | None = Field(None, ge=1, description="use at most so many pieces, chosen by the seed")
    transpose: int | None = Field(
        None, ge=0, le=12, description="semitones that training pieces are also heard higher and lower; null: if few"
    )


class StftSection(Section):
    """Short-time Fourier transform: `n_fft` samples under a Hann window, every `hop` samples."""

    n_fft: int = Field(1536, ge=16, le=32768)
    hop: int = Field(384, ge=1)

    @model_validator(mode="after")
    def _window_allows_hop(self) -> "StftSection":
        if self.n_fft % 2:
            raise ValueError(f"n_fft must be even, not {self.n_fft}")
        if self.hop > self.n_fft // 2:
            raise ValueError(f"hop {self.hop} is more than half of n_fft {self.n_fft}: the window leaves gaps")
        return self


class SpectrumSection(StftSection):
    """Frames of [magnitude | phase] as they are."""

    kind: Literal["spectrum"]


class CodebookSection(StftSection):
    """Log-magnitude, PCA and residual k-means: a frame becomes `levels` codes of `centroids` values each, at most."""

    kind: Literal["codebook"]
    floor: float = Field(
        4e-4, gt=0, lt=1, description="added to a magnitude (1 = full-scale sine) before its logarithm"
    )
    components: int = Field(160, ge=1)
    levels: int = Field(3, ge=1, le=64)
    centroids: int = Field(1024, ge=2, le=32768)
    frames_per_centroid: int = Field(
        0, ge=0, le=10_000, description="at least; where the corpus is too small there are fewer centroids"
    )
    fit_frames: int = Field(300_000, ge=100, le=5_000_000, description="frames that the levels are fitted on, at most")
    postfilter_steps: int = Field(
        1200, ge=0, le=100_000, description="of the post-filter's training, at most; 0: plain look-up"
    )

    @model_validator(mode="after")
    def _components_fit(self) -> "CodebookSection":
        if self.components > self.n_fft // 2 + 1:
            raise ValueError(
                f"components {self.components} exceeds the {self.n_fft // 2 + 1} bins of n_fft {self.n_fft}"
            )
        return self


class GridSection(Section):
    """Notes in musical time, rounded to a grid."""

    steps_per_quarter: int = Field(12, ge=1, le=480, description="of the grid; 12 hits 16ths and triplets")

    @model_validator(mode="after")
    def _divides_quarter(self) -> "GridSection":
        if 480 % self.steps_per_quarter:
            raise ValueError(f"steps_per_quarter must divide 480, as 4, 8, 12 and 24 do, not {self.steps_per_quarter}")
        return self


class ChordsSection(GridSection):
    """Events of notes, chords and rests: what begins, how long it lasts, and when the next event comes."""

    kind: Literal["chords"]
    classes: int = Field(1000, ge=200, le=32768, description="notes and chords in the vocabulary; others in parts")


class RollSection(GridSection):
    """What sounds at each step of the grid; `strikes`: whether repeated notes differ from held ones."""

    kind: Literal["roll"]
    steps_per_quarter: int = Field(4, ge=1, le=480)
    strikes: bool = True
    most: int = Field(32, ge=1, le=64, description="notes at once, at most; 1: the highest alone")


class RemiSection(Section):
    """REMI+ tokens: bars, positions, programs, pitches, velocities, durations, tempos and time signatures."""

    kind: Literal["remi"]
    steps_per_quarter: Literal[4, 8, 12, 20, 24, 40, 60, 120] = 12
    velocities: int = Field(8, ge=1, le=127)
    bpe: int = Field(
        0, ge=0, le=32768, description="vocabulary that tokens are merged to by byte pair encoding; 0: none"
    )


class ArchitectureSection(Section):
    """What backbones share; `code_dropout`: the share of training lanes that hear only the coarse levels."""

    hidden: int = Field(512, ge=1, le=8192)
    layers: int = Field(2, ge=1, le=16)
    dropout: float = Field(0.0, ge=0, lt=1)
    code_dropout: float = Field(0.5, ge=0, le=1)
    head_width: int = Field(512, ge=1, le=8192)


class LstmSection(ArchitectureSection):
    """`torch.nn.LSTM` over time; `onset_memory`: each step also hears what rose in so many steps up to it, 0: none."""

    kind: Literal["lstm"]
    onset_memory: int = Field(0, ge=0, le=1024)


class ConvSection(ArchitectureSection):
    """Causal convolutions; layer `n` looks `2 ** n` times `kernel - 1` steps back."""

    kind: Literal["conv"]
    layers: int = Field(5, ge=1, le=12)
    kernel: int = Field(3, ge=2, le=64)


class MlpSection(ArchitectureSection):
    """A perceptron on the last `window` steps."""

    kind: Literal["mlp"]
    window: int = Field(16, ge=2, le=4096)


class TransformerSection(ArchitectureSection):
    """Decoder-only attention over the last `context` steps."""

    kind: Literal["transformer"]
    layers: int = Field(4, ge=1, le=48)
    heads: int = Field(4, ge=1, le=128)
    context: int = Field(256, ge=2, le=16384)

    @model_validator(mode="after")
    def _heads_fit(self) -> "TransformerSection":
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of twice the heads, {2 * self.heads}")
        return self


class TrainingSection(Section):
    """How long (`steps` if given, else `epochs`, else `minutes` in all) and how: what a resumed run depends on."""

    minutes: float | None = Field(10.0, gt=0)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0, description="times that the training pieces are gone through")
    batch_size: int = Field(32, ge=1, le=65536, description="lanes trained side by side")
    window: int = Field(64, ge=1, le=65536, description="steps per lane and batch")
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    average_decay: float = Field(0.998, ge=0, lt=1)
    validate_every_steps: int = Field(120, ge=1)
    validation_frames: int = Field(16384, ge=1)
    checkpoint_every_s: float = Field(30.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    engine: Literal["torch", "scratch"] = Field(
        "torch", description="what trains: torch, or continuo.engine.network (mlp only)"
    )
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _has_budget(self) -> "TrainingSection":
        if self.minutes is None and self.steps is None and self.epochs is None:
            raise ValueError("give a budget: minutes, steps or epochs")
        return self


class SamplingSection(Section):
    """Temperatures of what is played and of how it sounds, where `predict.py` is not told others.

    They may be changed at any time. The longer a model was trained, the higher the first may be.
    """

    coarse_temperature: float = Field(1.08, ge=0, le=MAX_TEMPERATURE)
    fine_temperature: float = Field(0.7, ge=0, le=MAX_TEMPERATURE)


Representation = Annotated[
    SpectrumSection | CodebookSection | ChordsSection | RollSection | RemiSection, Field(discriminator="kind")
]
Architecture = Annotated[LstmSection | ConvSection | MlpSection | TransformerSection, Field(discriminator="kind")]


REPRESENTATIONS: tuple[type[Section], ...] = (SpectrumSection, CodebookSection, ChordsSection, RollSection, RemiSection)
ARCHITECTURES: tuple[type[Section], ...] = (LstmSection, ConvSection, MlpSection, TransformerSection)
KINDS = frozenset(get_args(s.model_fields["kind"].annotation)[0] for s in (*REPRESENTATIONS, *ARCHITECTURES))


class Metadata(Section):
    """The whole dictionary. `state` is a file name relative to the JSON's folder."""

    corpus: CorpusSection = CorpusSection()
    representation: Representation
    architecture: Architecture
    training: TrainingSection = TrainingSection()
    sampling: SamplingSection = SamplingSection()
    state: Place = Field(min_length=1)

    @field_validator("state")
    @classmethod
    def _state_stays_inside(cls, value: str) -> str:
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or path.name in ("", "."):
            raise ValueError(f"{value!r} must be a file name in or below the folder of the metadata file")
        if path.suffix != ".safetensors":
            raise ValueError(f"{value!r} must end in .safetensors, so that no other file is ever overwritten")
        return value

    def to_json(self) -> SavedMetadata:
        """Return the metadata as JSON types, as a state holds them."""
        return cast("SavedMetadata", self.model_dump(mode="json"))


def load(path: Path, overrides: dict[str, Any] | None = None) -> Metadata:
    """Read and check a metadata file; `overrides` are dotted keys with values, as of `--set`.

    Raises:
        ValueError: the file is missing, not JSON, or holds an unknown key or an impossible value.
    """
    return validated(read_json(path), overrides or {}, source=path.name)


def state_path(metadata: Metadata, meta_path: Path) -> Path:
    """Where the state of a metadata file is: in its folder or below.

    Raises:
        ValueError: a link leads out of that folder.
    """
    path, folder = meta_path.parent / metadata.state, os.path.realpath(meta_path.parent)
    if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
        raise ValueError(
            f"{path} is a link that leads out of the folder of {meta_path.name}: put the file itself there"
        )
    return path


def from_preset(name: str, overrides: dict[str, Any], *, state: str) -> Metadata:
    """The complete metadata of the preset `name` in `models/`, with overrides applied.

    A corpus of the user's own is rendered with the instruments its scores name, not with the preset's piano. Of a
    section whose kind is overridden, what the new kind does not know is left out.

    Raises:
        ValueError: there is no such preset, or an override is refused.
    """
    presets = sorted(p.stem for p in PRESETS.glob("*.json"))
    if name not in presets:
        raise ValueError(f"there is no preset {name!r}, only {', '.join(presets)}{suggestion(name, presets)}")
    content = read_json(PRESETS / f"{name}.json") | {"state": state}
    if overrides.get("corpus.path", EMBEDDED_CORPUS) != EMBEDDED_CORPUS:
        content["corpus"] = content["corpus"] | {"program": None}
    for section, models in (("representation", REPRESENTATIONS), ("architecture", ARCHITECTURES)):
        kind = overrides.get(f"{section}.kind", content[section]["kind"])
        if kind != content[section]["kind"]:
            known = {key for model in models if kind in get_args(model.model_fields["kind"].annotation)
                     for key in model.model_fields}  # fmt: skip
            content[section] = {key: value for key, value in content[section].items() if key in known or not known}
    return validated(content, overrides, source=f"preset {name}")


def from_donor(donor: dict[str, Any], overrides: dict[str, Any], *, state: str) -> Metadata:
    """The metadata of a model that begins with another's weights: its shape and rate, the default training.

    Raises:
        ValueError: the donor's metadata is of another version, or an override is refused.
    """
    shape = {key: value for key, value in donor.get("representation", {}).items() if key not in FITTING}
    content = {"representation": shape, "architecture": donor.get("architecture"), "state": state}
    for section in ("representation", "architecture"):
        theirs, wanted = donor.get(section, {}).get("kind"), overrides.get(f"{section}.kind")
        if wanted not in (None, theirs):
            raise ValueError(f"--from: that state's {section} is {theirs}, not {wanted}: it cannot be begun with")
    content["corpus"] = {"sample_rate_hz": donor.get("corpus", {}).get("sample_rate_hz", 24000)}
    return validated(content, overrides, source="--from")


def matches_preset(metadata: Metadata, name: str) -> bool:
    """Whether metadata has the representation and the architecture that a preset names."""
    preset = from_preset(name, {}, state="any.safetensors")
    ours = (metadata.representation.kind, metadata.architecture.kind)
    return ours == (preset.representation.kind, preset.architecture.kind)


def validated(content: Any, overrides: dict[str, Any], *, source: str) -> Metadata:
    """Check a dictionary, after overrides, and name what is wrong in it."""
    for key, value in overrides.items():
        content = _with_key(content, key.split("."), value, key)
        if key not in known_keys():
            raise ValueError(f"unknown key {key}{_like(key)}")
    try:
        return Metadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[:MAX_REASONS]
        reasons = "; ".join(dict.fromkeys(_reason(entry) for entry in first))
        more = f"; {error.error_count() - len(first)} more" if error.error_count() > len(first) else ""
        asked_for = all(_is_of(entry, overrides) for entry in first)  # the file is not to blame
        raise ValueError(f"{'' if asked_for else f'{source}: '}{reasons}{more}") from None


def check_same_model(ours: Metadata, saved: Mapping[str, Any], state_path: Path, *, anew: bool = False) -> None:
    """Refuse a state that was trained with other metadata than ours, as far as the two could not work together.

    Where a featurizer is fitted `anew`, how the other one was fitted does not matter.

    Raises:
        ValueError: names the first key that differs.
    """
    mine = ours.model_dump(mode="json")
    defaults = {name: type(getattr(ours, name)).model_fields for name in ("representation", "architecture")}
    theirs = {  # what states say nothing of came later, and is what it is by default
        name: {key: field.default for key, field in fields.items() if not field.is_required()} | saved.get(name, {})
        for name, fields in defaults.items()
    }
    pairs = [
        (f"{section}.{key}", mine[section].get(key), theirs[section].get(key))
        for section in theirs
        for key in ["kind", *sorted(mine[section].keys() | theirs[section].keys())]
        if not (anew and key in FITTING)
    ]
    pairs.append(
        ("corpus.sample_rate_hz", mine["corpus"]["sample_rate_hz"], saved.get("corpus", {}).get("sample_rate_hz"))
    )
    for key, here, there in pairs:
        if here != there:
            raise ValueError(
                f"{state_path.name} was trained with {key} = {there!r}, now it is {here!r}: "
                "set it back, or name another state in the metadata file (train.py --fresh would begin anew)"
            )


def save(metadata: Metadata, path: Path) -> None:
    """Write the metadata as readable JSON, whole or not at all."""
    write_text(path, json.dumps(metadata.model_dump(mode="json"), indent=2) + "\n")


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` words to a dictionary; VALUE is JSON where it parses as JSON, else a string.

    >>> parse_assignments(["training.batch_size=16", "corpus.path=~/music"])
    {'training.batch_size': 16, 'corpus.path': '~/music'}
    """
    result = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word}: write KEY=VALUE, for example training.batch_size=16")
        try:
            result[key] = json.loads(value)
        except (ValueError, RecursionError):
            result[key] = value
    return result


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or ValueError with the reason in one line."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder: name a metadata file")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {human_size(MAX_BYTES)}")
        content = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        if is_locked(path.with_suffix(".safetensors")):
            raise ValueError(f"{path} is being prepared by a training: it can be heard once that has saved") from None
        other = f"{meant} Or" if (meant := suggest_path(path)) else "; check --meta, or"
        raise ValueError(f"{path} does not exist{other} create it: python train.py --meta {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: name a metadata file in it, such as {path / 'model.json'}") from None
    except (ValueError, RecursionError) as error:  # of encoding, of JSON, of numbers with thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error}): mend it, or name another file") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _with_key(content: Any, keys: list[str], value: Any, whole: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"--set {whole}: there is no such section")
    head, *rest = keys
    return content | {head: _with_key(content.get(head, {}), rest, value, whole) if rest else value}


def _key(entry: Any) -> str:
    """The dotted key that a pydantic error is about; the tag of a discriminated union is left out of it."""
    return ".".join(str(part) for part in entry["loc"] if part not in KINDS)


def _is_of(entry: Any, keys: Iterable[str]) -> bool:
    """Whether a pydantic error is about one of the dotted keys, or about something in its value."""
    key = _key(entry) + ".kind" * (entry["type"] == "union_tag_invalid")
    return any(f"{key}.".startswith(f"{given}.") for given in keys)


def _reason(entry: Any) -> str:
    """One pydantic error in words."""
    key = _key(entry)[:80]
    if entry["type"] == "string_unicode":
        return f"{key} holds characters that are no Unicode text: rename what it names"
    if entry["type"] == "extra_forbidden":
        return f"unknown key {key}{_like(key)}"
    if entry["type"] == "union_tag_invalid":
        tag, known = entry["ctx"]["tag"], entry["ctx"]["expected_tags"]
        return f"{key}.kind: there is no {tag!r}, only {known}{suggestion(tag, regex.findall(r'[a-z]+', known))}"
    if entry["type"] in ("missing", "union_tag_not_found"):
        return f"the key {key}{'.kind' if entry['type'] == 'union_tag_not_found' else ''} is missing"
    if entry["type"] == "value_error":
        return f"{key}: {entry['ctx']['error']}"
    if entry["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: input should be an object, not {_shown(entry['input'])}"
    return f"{key}: {entry['msg'].lower()}, not {_shown(entry['input'])}"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)  # as it was written
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists in lists
        return "that"


def _like(key: str) -> str:
    """A suggestion for an unknown key: of the same name in another section, else one that is spelt nearly so."""
    same = [known for known in known_keys() if known.rpartition(".")[2] == key.rpartition(".")[2]]
    near = [known for known in known_keys() if ("." in known) == ("." in key)]
    return suggestion(key, same, least=0) if same else suggestion(key, near, least=0.8)


def known_keys() -> list[str]:
    """Every dotted key that a metadata file may hold."""
    keys = list(Metadata.model_fields)
    sections: dict[str, tuple[type[BaseModel], ...]] = {
        "corpus": (CorpusSection,),
        "representation": REPRESENTATIONS,
        "architecture": ARCHITECTURES,
        "training": (TrainingSection,),
        "sampling": (SamplingSection,),
    }
    for name, models in sections.items():
        keys += [f"{name}.{field}" for model in models for field in model.model_fields]
    return sorted(set(keys))
