"""Where to compute: CUDA, then MPS, then the CPU; and in which precision."""

import ctypes
import sys
import time

import torch
from torch import nn

DEVICES = ("auto", "cuda", "mps", "cpu")
PRODUCT_ROWS = 2048  # of the products that precisions are compared by
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MAX_KEPT, MAX_KEPT_BYTES = 1 << 25, 2**31 - 1  # bytes, the most that glibc takes


def choose(name: str) -> tuple[torch.device, str]:
    """A device and a few words on why.

    An LSTM on MPS has been slower than on the CPU and once wrong (pytorch issues 138898 and 92615), so MPS is
    taken automatically only after a small LSTM agreed with the CPU and was not slower.

    Raises:
        ValueError: the named device is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no CUDA device; use --device auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: this machine or this build of torch has no MPS device; use --device auto")
    if name not in DEVICES:
        raise ValueError(f"--device {name}: choose one of {', '.join(DEVICES)}")
    if name != "auto":
        return torch.device(name), "as asked"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        verdict = compare_with_cpu(torch.device("mps"))
        return (
            (torch.device("cpu"), f"MPS is left out: {verdict}")
            if verdict
            else (torch.device("mps"), "checked against the CPU")
        )
    return torch.device("cpu"), f"no GPU found, {torch.get_num_threads()} threads"


def compare_with_cpu(device: torch.device) -> str:
    """Run a small LSTM, forward and backward, on both; returns what is wrong with `device`, or nothing."""
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
    if not (
        torch.allclose(out, out_there, atol=1e-3) and torch.allclose(gradient, gradient_there, atol=1e-4, rtol=1e-2)
    ):
        return "an LSTM gives other results there than on the CPU"
    if seconds_there > seconds:
        return f"an LSTM takes {seconds_there / seconds:.1f} times as long there as on the CPU"
    return ""


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that matrix products are computed in: `float32`, `bfloat16`, or `auto`, which measures on a CPU."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "mps":
        return torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other work has the cores
    try:
        return _faster_precision()
    finally:
        torch.set_num_threads(threads)


def _faster_precision() -> torch.dtype:
    plain = _product_seconds(torch.float32, PRODUCT_ROWS)
    few = PRODUCT_ROWS // 64  # rows, which cost up to ten times as much each as many do where bfloat16 is fastest
    if _product_seconds(torch.bfloat16, few) * PRODUCT_ROWS / few > 10 * plain:
        return torch.float32  # emulated: on many processors a thousand times slower, so that measuring took a minute
    return torch.bfloat16 if _product_seconds(torch.bfloat16, PRODUCT_ROWS) < 0.7 * plain else torch.float32


def _product_seconds(dtype: torch.dtype, rows: int) -> float:
    """The least time of five products of `(rows, 512)` and `(512, 2048)`."""
    a, b = torch.ones(rows, 512, dtype=dtype), torch.ones(512, 2048, dtype=dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def keep_freed_memory() -> None:
    """Let the C library keep for the next step what a step frees, on Linux with glibc; elsewhere nothing changes.

    It gives large tensors back otherwise, and every page of the next ones is asked for and cleared anew: up to a fifth
    of a training step.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, MAX_KEPT)
        mallopt(M_TRIM_THRESHOLD, MAX_KEPT_BYTES)
