"""Validate the metadata of a model (`model.json`): every choice in one immutable place, section by section.

`state` names the file that training writes next to the JSON. An unknown key or an impossible value is refused by name.
"""

import json
import os
import reprlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator, with_config
from rich.filesize import decimal as human_size
from typing_extensions import TypedDict

from continuo.system.files import is_locked, suggest_path, write_text
from continuo.system.paths import command
from continuo.system.text import suggestion

EMBEDDED_CORPUS = "music21:bach"
MAX_BYTES = 2**20  # larger metadata files are refused; one that names every key has about 1,000 bytes
MAX_REASONS = 5  # largest number of mistakes that one message names
FITTING = ("adaptation_steps",)  # keys of a representation for its fitting alone
RETIRED_KINDS = "codebook", "universal"  # of representations of earlier versions
OTHER_START = "start without --from, or from another state"  # what to do about a state that no training can start from
Json = dict[str, Any]  # an object of a JSON file that is not validated yet
Program = Annotated[int, Field(ge=0, le=127)]  # General MIDI number
Temperature = Annotated[float, Field(ge=0, le=1e9)]  # the product of two stays finite in float32
FilePath = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f]*$")]


@with_config(ConfigDict(extra="allow"))
class SavedMetadata(TypedDict):
    """The metadata of a state, checked only as far as they must be before they are compared with the metadata file."""

    corpus: Json
    representation: Json
    architecture: Json


class Section(BaseModel):
    """A part of the metadata; unknown keys, NaN and later changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusSection(Section):
    """The music; `include` and `exclude` are regular expressions (of the package `regex`) on relative paths."""

    path: FilePath = EMBEDDED_CORPUS
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sample_rate_hz: int = Field(44100, ge=4000, le=192000)
    channels: Literal[1, 2] = 1  # 2: recordings keep both channels, scores are rendered in stereo
    program: Program | None = None  # all scores are played with it; null: with the instruments they name
    programs: tuple[Program, ...] = ()  # models of notes read the notes of these alone; none: of all
    soundfont: FilePath | None = None
    licence: str = "not stated"  # the license of the recordings, for the model card
    validation_share: float = Field(0.1, gt=0, lt=1)
    pieces: int | None = Field(None, ge=1)  # number of pieces, chosen by the seed; null: all
    transpose: int | None = Field(None, ge=0, le=12)  # semitones up and down for training pieces; null: by length


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


class CodecSection(Section):
    """The codes of the shipped codec: 62.6 frames a second at 44.1 kHz, three codes of 1,024 values each."""

    kind: Literal["codec"]
    adaptation_steps: int = Field(200, ge=0, le=100_000)  # of the decoder, on the folder; 0: as shipped


class GridSection(Section):
    """Notes in musical time, rounded to a grid."""

    steps_per_quarter: int = Field(12, ge=1, le=480)  # 12 holds sixteenths and triplets

    @model_validator(mode="after")
    def _divides_quarter(self) -> "GridSection":
        if 480 % self.steps_per_quarter:
            raise ValueError(f"steps_per_quarter must divide 480, as 4, 8, 12 and 24 do, not {self.steps_per_quarter}")
        return self


class ChordsSection(GridSection):
    """Events of notes, chords and rests: what begins, how long it lasts, and when the next event comes."""

    kind: Literal["chords"]
    classes: int = Field(1000, ge=200, le=32768)  # vocabulary of notes and chords; other chords are split


class RollSection(GridSection):
    """The notes that sound at each step of the grid; `strikes`: tell repeated notes from held ones."""

    kind: Literal["roll"]
    steps_per_quarter: int = Field(4, ge=1, le=480)
    strikes: bool = True
    most: int = Field(32, ge=1, le=64)  # largest number of notes at once; 1: the highest alone


class RemiSection(Section):
    """REMI+ tokens: bars, positions, programs, pitches, velocities, durations, tempos and time signatures."""

    kind: Literal["remi"]
    steps_per_quarter: Literal[4, 8, 12, 20, 24, 40, 60, 120] = 12
    velocities: int = Field(8, ge=1, le=127)
    bpe: int = Field(0, ge=0, le=32768)  # size of the vocabulary after byte pair encoding; 0: none


class ArchitectureSection(Section):
    """The keys of all backbones; `code_dropout`: fraction of the batch rows that are trained on coarse levels alone."""

    hidden: int = Field(512, ge=1, le=8192)
    layers: int = Field(2, ge=1, le=16)
    dropout: float = Field(0.0, ge=0, lt=1)
    code_dropout: float = Field(0.5, ge=0, le=1)
    head_width: int = Field(512, ge=1, le=8192)


class LstmSection(ArchitectureSection):
    """`torch.nn.LSTM` over time; `onset_memory`: number of steps whose onsets are added to each step, 0: none."""

    kind: Literal["lstm"]
    onset_memory: int = Field(0, ge=0, le=1024)


class ConvSection(ArchitectureSection):
    """Causal convolutions; layer n looks back 2^n (`kernel` - 1) steps."""

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
    """Length (`steps` if given, else `epochs`, else `minutes` in all) and method of a training."""

    minutes: float | None = Field(10.0, gt=0)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)  # passes over the training pieces
    batch_size: int = Field(32, ge=1, le=65536)  # number of batch rows
    window: int = Field(64, ge=1, le=65536)  # steps per batch row and batch
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    average_decay: float = Field(0.998, ge=0, lt=1)
    stray_rows: float = Field(0.5, ge=0, le=1)  # of the batch rows whose history strays, where codes can lead back
    validate_every_steps: int = Field(120, ge=1)
    validation_frames: int = Field(16384, ge=1)
    checkpoint_every_s: float = Field(30.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    engine: Literal["torch", "scratch"] = "torch"  # scratch: continuo.engine.network (mlp only)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _has_budget(self) -> "TrainingSection":
        if self.minutes is None and self.steps is None and self.epochs is None:
            raise ValueError("give a budget: minutes, steps or epochs")
        return self


class SamplingSection(Section):
    """Temperatures of the levels of a stream whose levels refine the first one; they may be changed at any time."""

    coarse_temperature: Temperature = 1.0  # of the first level; above 1 there are more onsets
    fine_temperature: Temperature = 1.0  # of the levels that refine it; below 1 they are less noisy


class Sampling(SamplingSection):
    """The settings of sampling: those of the metadata, which temper single levels, and these for all levels."""

    temperature: Temperature = 1.0  # multiplies those of the levels; 1 is natural, 0 takes the likeliest class
    top_p: float = Field(1.0, gt=0, le=1)  # below 1 unlikely classes, onsets among them, are never drawn

    def but(self, **values: float | None) -> Self:
        """Return these settings with the values that are not None changed; ValueError for one outside its range."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return type(self).model_validate(self.model_dump() | given)
        except ValidationError as error:
            raise ValueError(in_words(error)) from None

    def level_temperature(self, level: int) -> float:
        """Return the factor of `temperature` for a level of a stream whose levels refine the first one."""
        return self.fine_temperature if level else self.coarse_temperature


Representation = Annotated[
    SpectrumSection | CodecSection | ChordsSection | RollSection | RemiSection,
    Field(discriminator="kind"),
]
Architecture = Annotated[LstmSection | ConvSection | MlpSection | TransformerSection, Field(discriminator="kind")]
BY_KIND: dict[str, dict[str, type[Section]]] = {
    section: {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(union)[0])}
    for section, union in (("representation", Representation), ("architecture", Architecture))
}


class Metadata(Section):
    """The whole metadata; `state` is a file name relative to the folder of the JSON."""

    corpus: CorpusSection = CorpusSection()
    representation: Representation
    architecture: Architecture
    training: TrainingSection = TrainingSection()
    sampling: SamplingSection = SamplingSection()
    state: FilePath

    @field_validator("state")
    @classmethod
    def _state_stays_inside(cls, value: str) -> str:
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or path.name in ("", "."):
            raise ValueError("must be a file name in or below the folder of the metadata file")
        if path.suffix != ".safetensors":
            raise ValueError("must end in .safetensors, so that no other file is ever overwritten")
        return value

    def to_json(self) -> SavedMetadata:
        """Return the metadata as JSON types, as a state holds them."""
        return cast("SavedMetadata", self.model_dump(mode="json"))


def load(path: Path, overrides: Json | None = None) -> Metadata:
    """Read and validate a metadata file; `overrides`: values by dotted keys, as of `--set`; ValueError if refused."""
    content = read_json(path)
    check_readable(content, path)
    return validated(content, overrides or {}, source=path.name)


def is_retired(content: Mapping[str, Any]) -> bool:
    """Return True for the metadata of an earlier version, whose codes this version does not read."""
    section = content.get("representation")
    return isinstance(section, dict) and section.get("kind") in RETIRED_KINDS


def check_readable(content: Mapping[str, Any], path: Path, remedy: str = "") -> None:
    """Refuse retired metadata, which a file or the state at `path` holds; the ValueError says how to train again.

    `remedy` replaces that advice.
    """
    if is_retired(content):
        meta, corpus = path.with_suffix(".json"), ""
        if not meta.exists():  # the state alone knows the corpus
            corpus = f" --corpus {shlex.quote(str(content['corpus'].get('path', EMBEDDED_CORPUS)))}"
        remedy = remedy or f"train it again with {command('train')} --meta {meta} --fresh{corpus}"
        raise ValueError(f"{path} was made by an earlier version, whose codes this version does not read: {remedy}")


def save(metadata: Metadata, path: Path) -> None:
    """Write the metadata as readable JSON, whole or not at all."""
    write_text(path, json.dumps(metadata.to_json(), indent=2) + "\n")


def state_path(metadata: Metadata, meta_path: Path) -> Path:
    """Return the path of the state of a metadata file; raise ValueError if a link leads out of its folder."""
    path, folder = meta_path.parent / metadata.state, os.path.realpath(meta_path.parent)
    if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
        reason = f"is a link that leads out of the folder of {meta_path.name}: put the file itself there"
        raise ValueError(f"{path} {reason}")
    return path


def read_json(path: Path) -> Json:
    """Return the JSON object in a metadata file; ValueError if it is missing, too large, no file, or holds none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a metadata file in it, such as {path / 'model.json'}")
    if not path.exists():
        if is_locked(path.with_suffix(".safetensors")):
            raise ValueError(f"the training of {path} has not saved yet: try again after its first checkpoint")
        other = f"{meant} Or" if (meant := suggest_path(path)) else "; check --meta, or"
        raise ValueError(f"{path} does not exist{other} create it: {command('train')} --meta {path}")
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder: name a metadata file")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {human_size(MAX_BYTES)}")
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): correct it, or name another file") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def validated(content: Mapping[str, Any], overrides: Json, *, source: str) -> Metadata:
    """Validate a dictionary with overrides by dotted keys; a ValueError names `source` unless they caused it."""
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        inside = content.get(section, {})
        if name and not isinstance(inside, dict):
            raise ValueError(f"--set {key}: there is no section {section}")
        if key not in known_keys():
            raise ValueError(f"unknown key {key:.80}{_suggested_key(key)}")
        content = {**content, section: inside | {name: value} if name else value}
    try:
        return Metadata.model_validate(content)
    except ValidationError as error:
        from_overrides = all(_dotted(entry["loc"]) in overrides for entry in error.errors()[:MAX_REASONS])
        raise ValueError(("" if from_overrides else f"{source}: ") + in_words(error)) from None


def in_words(error: ValidationError) -> str:
    """Return the first problems that pydantic found, each as its key, pydantic's message and the value."""
    reasons = []
    for entry in error.errors()[:MAX_REASONS]:
        key = _dotted(entry["loc"])
        if entry["type"] == "extra_forbidden":
            reasons.append(f"unknown key {key:.80}{_suggested_key(key)}")
        else:
            value = "" if isinstance(entry["input"], dict) else f", not {reprlib.repr(entry['input'])}"
            problem = f": {entry['msg'].removeprefix('Value error, ')}".replace(": Input should be", " must be")
            reasons.append(f"{key}{problem}{value}")
    more = error.error_count() - MAX_REASONS
    return "; ".join([*dict.fromkeys(reasons), *([f"{more} more"] if more > 0 else [])])


def _dotted(place: tuple[int | str, ...]) -> str:
    """Return the dotted key of a place in the metadata; the kind of a section is not a part of it."""
    return ".".join(str(part) for part in place if not any(part in kinds for kinds in BY_KIND.values()))


def _suggested_key(key: str) -> str:
    """Return a suggestion for an unknown key: the same name in another section, else a similar key."""
    same = [known for known in known_keys() if known.rpartition(".")[2] == key.rpartition(".")[2]]
    similar = [known for known in known_keys() if known.count(".") == key.count(".")]
    return suggestion(key, same, least=0.0) or suggestion(key, similar, least=0.8)


def known_keys() -> set[str]:
    """Return every dotted key that a metadata file may hold."""
    sections: list[tuple[str, type[Section]]] = [
        ("corpus", CorpusSection), ("training", TrainingSection), ("sampling", SamplingSection)
    ]  # fmt: skip
    sections += [(name, model) for name, models in BY_KIND.items() for model in models.values()]
    return set(Metadata.model_fields) | {f"{name}.{key}" for name, model in sections for key in model.model_fields}


def check_same_model(ours: Metadata, saved: Mapping[str, Any], state_path: Path, *, is_donor: bool = False) -> None:
    """Refuse a state whose representation, architecture, sample rate or channels are not ours.

    A key that a state lacks is newer than the state and has its default value there. How the representation of a donor
    was fitted does not count, because it is fitted again. The ValueError names the first key that differs.
    """
    check_readable(saved, state_path, OTHER_START if is_donor else "")
    other = OTHER_START if is_donor else "name another state in the metadata file (--fresh would start over)"
    pairs = []
    for section in ("representation", "architecture"):
        model = getattr(ours, section)
        defaults = {key: field.default for key, field in type(model).model_fields.items() if not field.is_required()}
        mine, theirs = model.model_dump(mode="json"), defaults | saved.get(section, {})
        keys = [key for key in sorted(mine.keys() | theirs.keys()) if not (is_donor and key in FITTING)]
        pairs += [(f"{section}.{key}", mine.get(key), theirs.get(key)) for key in ["kind", *keys]]
    theirs = {"channels": 1} | saved.get("corpus", {})
    pairs += [(f"corpus.{key}", getattr(ours.corpus, key), theirs.get(key)) for key in ("sample_rate_hz", "channels")]
    for key, here, there in pairs:
        if here != there:
            differs = f"{state_path.name} was trained with {key} = {there!r}, now it is {here!r}"
            raise ValueError(f"{differs}: set it back, or {other}")
