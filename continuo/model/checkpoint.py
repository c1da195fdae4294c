"""Save and load a model's state: one safetensors file, tensors by name and JSON facts in its header; no pickle."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NotRequired

import safetensors.torch
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from rich.filesize import decimal as human_size
from safetensors import SafetensorError
from typing_extensions import TypedDict

from continuo.model.metadata import Json, SavedMetadata
from continuo.system.files import atomic_write
from continuo.system.int8 import dequantize_int8
from continuo.system.paths import command

FORMAT = "continuo-1"
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
DTYPES = frozenset({torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool})
RESTORE = "name a state (.safetensors), restore a copy of it, or train a new one with --fresh"
STATE_MISMATCH_ERRORS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError)
"""Exceptions raised when a state does not match its metadata."""
Tensors = dict[str, torch.Tensor]
Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass
class Progress:
    """The progress of a training; each row of `history` is [step, seconds, training loss, held-out loss] in nats."""

    step: Count
    seconds: Annotated[float, Field(ge=0)]
    history: list[Annotated[list[float], Field(min_length=4, max_length=4)]]
    train_nats: float | None = None
    validation_nats: float | None = None
    best_step: Count | None = None
    best_nats: float | None = None


class SoundFont(TypedDict):
    """A SoundFont, known by its content, whatever its folder and name."""

    name: str
    bytes: Count
    sha256: str


@with_config(ConfigDict(extra="allow"))
class Facts(TypedDict):
    """The facts in the header of a model's state."""

    metadata: SavedMetadata
    progress: Progress
    version: NotRequired[str]
    precision: NotRequired[Literal["float32", "bfloat16"]]
    pieces: NotRequired[str]  # fingerprint of the training pieces
    validation: NotRequired[list[str]]  # ids of the held-out pieces
    amounts: NotRequired[dict[str, int | float]]  # amount of music, parameters and steps per second, for the model card
    begun_with: NotRequired[str]  # description of the state that this training started from, or empty
    soundfont: NotRequired[SoundFont]  # rendered the scores of the corpus; missing if it had none


_FACTS = TypeAdapter(Facts)


@contextmanager
def mismatch_refused(path: Path, remedy: str = "train a new one with --fresh") -> Iterator[None]:
    """Raise ValueError with the path of a state if a block that only loads from it finds that it lacks something."""
    try:
        yield
    except STATE_MISMATCH_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} lacks what its model needs ({reason:.200}): {remedy}") from None


def save(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, object]) -> None:
    """Write tensors and facts (JSON types and dataclasses of them) to `path`, whole or not at all."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, {"format": FORMAT, "facts": json.dumps(facts, default=vars)})
        except SafetensorError as error:
            raise OSError(f"cannot save {path} ({error}): free some space; the state before is intact") from None


def load(path: Path, *prefixes: str) -> tuple[Tensors, Json]:
    """Return the tensors whose names start with one of `prefixes` (default: all), on the CPU, and the facts.

    ValueError if the file is missing, damaged, too large for this machine, of another format, or not finite.
    """
    with _opened(path) as file:  # read at once, because a trainer may replace the file at any time
        size, limit = os.fstat(file.fileno()).st_size, machine_memory_bytes() // 2
        if size > limit:
            raise ValueError(f"{path} has {human_size(size)}, but this machine reads states up to {human_size(limit)}: "
                             "name another state, or use a machine with more memory")  # fmt: skip
        content = file.read()
    with _damage_refused(path):
        stored = safetensors.torch.load(content)
    facts = _read_header(io.BytesIO(content), path)
    with _damage_refused(path):
        wanted = {name: tensor for name, tensor in stored.items() if not prefixes or name.startswith(prefixes)}
        if strange := next((str(t.dtype) for t in wanted.values() if t.dtype not in DTYPES), ""):
            raise ValueError(f"no state holds {strange}")
        tensors = dequantize_int8(wanted)
        if not all_finite(tensors):
            raise ValueError("it holds values that are not finite")
    return tensors, facts


def load_model(path: Path, *prefixes: str) -> tuple[Tensors, Facts]:
    """Return tensors (those under the `prefixes`, or all) and facts; ValueError if they are not those of a model."""
    tensors, facts = load(path, *prefixes)
    return tensors, _validated(facts, path)


def read_facts(path: Path) -> Facts:
    """Return the facts in the header of a model's state; ValueError if it is missing, damaged or of another format."""
    with _opened(path) as file:
        return _validated(_read_header(file, path), path)


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():
        advice = f"train first ({command('train')}), the first save comes within a minute"
        raise ValueError(f"there is no state {path} yet: {advice}")
    return open(path, "rb")


def _read_header(file: BinaryIO, path: Path) -> Json:
    """Return the facts in the header: 8 bytes of length (little endian), then JSON."""
    with _damage_refused(path):
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(file.read(length)).get("__metadata__") or {}
        found = f"{header.get('format', 'unknown'):.40}"
    if found != FORMAT:
        other = "name another state, or train a new one with --fresh"
        raise ValueError(f"{path} is a state of another format ({found}, not {FORMAT}): {other}")
    with _damage_refused(path):
        facts: Json = json.loads(header["facts"])
    return facts


@contextmanager
def _damage_refused(path: Path) -> Iterator[None]:
    """Turn errors of reading a state into a ValueError of one line that says what to do."""
    try:
        yield
    except (SafetensorError, *STATE_MISMATCH_ERRORS) as error:
        raise ValueError(f"{path} is damaged or not a state ({error}): {RESTORE}") from None


def _validated(facts: Json, path: Path) -> Facts:
    try:
        return _FACTS.validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ValueError(f"{path} is damaged or not the state of a model ({reason}): {RESTORE}") from None


def all_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the tensors with names `prefix.NAME` as NAME; the inverse of `with_prefix`."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def weights_prefix(progress: Progress) -> Literal["average", "best"]:
    """Return the prefix of the weights to predict with: the average while the latest validation is the best so far."""
    history = progress.history
    return "average" if not history or history[-1][0] == progress.best_step else "best"
