"""The state of a model in one safetensors file: tensors by name, and JSON in its header.

Written under a temporary name, synced and renamed: a reader sees the state before or the state after, never a part.
Nothing is ever unpickled.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from typing_extensions import TypedDict

from continuo.system.files import atomic_write, human_size

FORMAT = "continuo-1"
SCALE = ":scale"
KINDS = frozenset({torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool})
"""Types of tensors that states hold."""
Tensors = dict[str, torch.Tensor]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class ProgressFacts(TypedDict):
    """Where a training stands, as `trainer.Progress` has it."""

    step: Count
    seconds: Annotated[float, Field(ge=0)]
    train_nats: float | None
    validation_nats: float | None
    best_step: Count | None
    best_nats: float | None
    history: list[Annotated[list[float], Field(min_length=4, max_length=4)]]


class Model(TypedDict):
    """The metadata of a state, as far as it is read before it is checked."""

    corpus: dict[str, Any]
    representation: dict[str, Any]
    architecture: dict[str, Any]


class Facts(TypedDict):
    """What the header of a model's state says."""

    metadata: Model
    progress: ProgressFacts
    precision: NotRequired[Literal["float32", "bfloat16"]]
    pieces: NotRequired[str]
    validation: NotRequired[list[str]]
    begun_with: NotRequired[str]


_FACTS = TypeAdapter(Facts)
STATE_MISMATCH_ERRORS = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    RecursionError,
    ArithmeticError,
)
"""Exceptions raised when a state does not match its metadata."""


def mismatch_error(path: Path, error: Exception) -> ValueError:
    """The refusal of a state that cannot be taken up."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{path} lacks what its model needs ({reason:.200}): train anew with --fresh")


def save(path: Path, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts (plain JSON types) to `path`, whole or not at all."""
    header = {"format": FORMAT, "facts": json.dumps(facts)}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, header
            )
        except SafetensorError as error:
            raise OSError(f"cannot save {path} ({error}): free some space; what was there before is intact") from None


def load(path: Path, *prefixes: str) -> tuple[Tensors, dict[str, Any]]:
    """The tensors whose names begin with one of `prefixes` (all, where none is given), on the CPU, and the facts.

    Raises:
        ValueError: the file is missing, truncated, not a state of this format, or holds values that are no numbers.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no state {path} yet: train first (python train.py), the first save comes within a minute"
        )
    content = _content(path)
    try:
        tensors = safetensors.torch.load(content)
        header_length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_length]).get("__metadata__") or {}
        if (found := header.get("format", "unknown")) != FORMAT:
            raise _Foreign(f"{path} is a state of another format ({found:.40}, not {FORMAT}): train anew with --fresh")
        wanted = {name: tensor for name, tensor in tensors.items() if not prefixes or name.startswith(prefixes)}
        if strange := next((str(t.dtype) for t in wanted.values() if t.dtype not in KINDS), ""):
            raise ValueError(f"no state holds {strange}")
        loaded, facts = dequantize_int8(wanted), json.loads(header["facts"])
    except _Foreign:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or not a state ({error}): restore a copy, or train anew with --fresh"
        ) from None
    if not all_finite(loaded):
        raise ValueError(
            f"{path} is damaged (it holds values that are no numbers): restore a copy, or train anew with --fresh"
        )
    return loaded, facts


class _Foreign(ValueError):
    """A state, but of another version."""


def all_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether every value is a number."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def _content(path: Path) -> bytes:
    """The file, at once and by one handle: a trainer may put another state in its place at any time.

    Raises:
        ValueError: it is larger than half of this machine's memory.
    """
    with open(path, "rb") as file:
        size, most = os.fstat(file.fileno()).st_size, machine_memory_bytes() // 2
        if size > most:
            raise ValueError(f"{path} has {human_size(size)}, and states up to {human_size(most)} are read here: "
                             "is it one, and is it for a machine of this size?")  # fmt: skip
        return file.read()


def machine_memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_model(path: Path, *prefixes: str) -> tuple[Tensors, dict[str, Any]]:
    """As `load`, of a model's state: its facts hold metadata and progress.

    Raises:
        ValueError: as `load`, or the facts are not those of a model.
    """
    tensors, facts = load(path, *prefixes)
    try:
        _FACTS.validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ValueError(
            f"{path} is damaged or no model's state ({what}): restore a copy, or train anew with --fresh"
        ) from None
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone, without reading any tensor."""
    return load(path, "\0")[1]


def read_model_facts(path: Path) -> dict[str, Any]:
    """The facts of a model alone; ValueError as `load_model`."""
    return load_model(path, "\0")[1]


def quantize_int8(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The same in a quarter of the space, to pass a model on: `load` gives them back, nearly.

    Matrices become 8-bit integers with one scale per row, everything else half precision. Names ending in `SCALE` are
    taken.
    """
    small: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or not tensor.is_floating_point():
            small[name] = tensor.half() if tensor.is_floating_point() else tensor
            continue
        scale = (tensor.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-7)
        small[name] = (tensor / scale).round().to(torch.int8)
        small[name + SCALE] = scale.float()
    return small


def dequantize_int8(tensors: Tensors) -> Tensors:
    """What `quantize_int8` was given, where it was used."""
    whole = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            scale = tensors[name + SCALE]
            if scale.shape != (*tensor.shape[:-1], 1):
                raise ValueError(f"{name} and its scale do not fit")
            whole[name] = tensor.float() * scale
        elif not name.endswith(SCALE):
            whole[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return whole


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Tensors under `prefix.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The inverse of `with_prefix`: the tensors under `prefix.`, by their own names."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def weights_prefix(progress: Mapping[str, Any]) -> str:
    """The prefix of the weights that predict: "average" while the latest validation was the best one, else "best".

    `progress` is that of a training's facts.
    """
    history = progress["history"]
    return "average" if not history or history[-1][0] == progress["best_step"] else "best"
