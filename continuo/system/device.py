"""The device to compute on (CUDA, then MPS, then the CPU) and its precision."""

import ctypes
import sys
import time
import timeit

import torch
from torch import nn

DEVICES = ("auto", "cuda", "mps", "cpu")
PRODUCT_ROWS = 2048  # rows of the matrix products that compare precisions
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt in glibc
MAX_MMAP_BYTES, MAX_TRIM_BYTES = 1 << 25, 2**31 - 1  # the largest values that glibc accepts


def choose(name: str) -> tuple[torch.device, str]:
    """Return a device and the reason for it in a few words.

    An LSTM on MPS has been slower than on the CPU and once wrong (pytorch issues 138898 and 92615). So "auto" takes MPS
    only after a small LSTM gave the same results there and was not slower. ValueError if the device does not exist.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no CUDA device; use --device auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: this machine or this build of torch has no MPS device; use --device auto")
    if name not in DEVICES:
        raise ValueError(f"--device {name}: choose one of {', '.join(DEVICES)}")
    if name != "auto":
        return torch.device(name), "chosen by --device"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        if fault := compare_with_cpu(torch.device("mps")):
            return torch.device("cpu"), f"MPS is not used: {fault}"
        return torch.device("mps"), "checked against the CPU"
    return torch.device("cpu"), f"no GPU found, {torch.get_num_threads()} threads"


def compare_with_cpu(device: torch.device) -> str:
    """Run a small LSTM, forward and backward, on the CPU and on `device`; return the fault of `device`, if any."""
    torch.manual_seed(0)
    reference, x = nn.LSTM(256, 256, 2, batch_first=True), torch.randn(16, 32, 256)
    outcomes = []
    for place in (torch.device("cpu"), device):
        model = nn.LSTM(256, 256, 2, batch_first=True)
        model.load_state_dict(reference.state_dict())
        model.to(place)
        for _ in range(3):  # the last round counts, after warm-up
            model.zero_grad()
            started = time.perf_counter()
            out = model(x.to(place))[0]
            out.square().mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()
            seconds = time.perf_counter() - started
        outcomes.append((out.detach().cpu(), gradient, seconds))
    (out, gradient, seconds), (out_there, gradient_there, seconds_there) = outcomes
    close = torch.allclose
    if not (close(out, out_there, atol=1e-3) and close(gradient, gradient_there, atol=1e-4, rtol=1e-2)):
        return "an LSTM gives different results on it than on the CPU"
    return f"an LSTM takes {seconds_there / seconds:.1f} times as long as on the CPU" if seconds_there > seconds else ""


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of products for `name`; "auto": the faster on a CPU, bfloat16 if CUDA has it, float32 on MPS."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would wait for each other on busy cores
    try:
        plain = _product_seconds(torch.float32, PRODUCT_ROWS)
        few = PRODUCT_ROWS // 64  # a row of few costs up to ten times a row of many, where bfloat16 is fastest
        if _product_seconds(torch.bfloat16, few) * PRODUCT_ROWS / few > 10 * plain:
            return torch.float32  # bfloat16 is emulated: a full measurement would take a minute
        return torch.bfloat16 if _product_seconds(torch.bfloat16, PRODUCT_ROWS) < 0.7 * plain else torch.float32
    finally:
        torch.set_num_threads(threads)


def _product_seconds(dtype: torch.dtype, rows: int) -> float:
    """Return the shortest time of five products of `(rows, 512)` and `(512, 2048)`, in seconds."""
    a, b = torch.ones(rows, 512, dtype=dtype), torch.ones(512, 2048, dtype=dtype)
    return min(timeit.repeat(lambda: a @ b, number=1, repeat=5))


def keep_freed_memory() -> None:
    """Make glibc on Linux keep freed memory: the kernel would clear its pages again, up to a fifth of a step."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, MAX_MMAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, MAX_TRIM_BYTES)
