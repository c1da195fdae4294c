"""Keep tensors as 8-bit integers with one scale per row."""

from collections.abc import Mapping

import torch

SCALE = ":scale"  # ending of the names of tensors that hold the scales of 8-bit ones
Tensors = dict[str, torch.Tensor]


def quantize_int8(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return tensors in a quarter of the space, for a file that is passed on; `dequantize_int8` restores them nearly.

    Matrices become 8-bit integers with one scale per row, at names with `SCALE`; other floats become half precision.
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
    """Return the tensors that `quantize_int8` was given, in float32; tensors that it did not make stay as they are."""
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
