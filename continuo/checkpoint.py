"""The state of a model in one safetensors file: tensors by name, and JSON in its header.

Written under a temporary name, synced and renamed: a reader sees the state before or the state after, never a part.
Nothing is ever unpickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from continuo.files import replacing

FORMAT = "continuo-1"
SCALE = ":scale"
Tensors = dict[str, torch.Tensor]


def save(path: Path, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts (plain JSON types) to `path`, whole or not at all."""
    header = {"format": FORMAT, "facts": json.dumps(facts)}
    with replacing(path) as temporary:
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
    content = path.read_bytes()  # at once, by one handle: a trainer may put another state in its place at any time
    try:
        tensors = safetensors.torch.load(content)
        header_length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_length]).get("__metadata__", {})
        if header.get("format") != FORMAT:
            found = header.get("format", "unknown")
            raise ValueError(f"{path} is a state of another format ({found}, not {FORMAT}): train anew with --fresh")
        wanted = [name for name in tensors if not prefixes or name.startswith(prefixes)]
        loaded, facts = _expanded({name: tensors[name] for name in wanted}), json.loads(header["facts"])
    except (SafetensorError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or not a state ({error}): restore a copy, or train anew with --fresh"
        ) from None
    if not all_finite(loaded):
        raise ValueError(
            f"{path} is damaged (it holds values that are no numbers): restore a copy, or train anew with --fresh"
        )
    return loaded, facts


def all_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether every value is a number."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def read_facts(path: Path) -> dict[str, Any]:
    """The facts alone, without reading any tensor."""
    return load(path, "\0")[1]


def compact(tensors: Mapping[str, torch.Tensor]) -> Tensors:
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


def _expanded(tensors: Tensors) -> Tensors:
    """What `compact` was given, where it was used."""
    whole = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            whole[name] = tensor.float() * tensors[name + SCALE]
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


def predicting(progress: Mapping[str, Any]) -> str:
    """The prefix of the weights that predict: "average" while the latest validation was the best one, else "best".

    `progress` is that of a training's facts.
    """
    history = progress["history"]
    return "average" if not history or history[-1][0] == progress["best_step"] else "best"
