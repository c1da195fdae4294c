"""The processes that train one model together: this process alone, or several that torchrun started.

All processes must call every method that exchanges something, in the same order. Tensors on the CPU travel by gloo,
those on GPUs by NCCL.
"""

import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from continuo.system.command_line import exit_now

TIMEOUT = timedelta(hours=24)  # the main process may decode a large corpus while the others wait
BUCKET_MB = {"cpu": 4, "cuda": 25}  # size of the parts in which gradients travel
T = TypeVar("T")


class ProcessGroup(AbstractContextManager["ProcessGroup"]):
    """One of several processes that train one model, or the only one. Use it as a context manager.

    `rank` and `local_rank`: its number among all, and on its machine. It waits here until all `size` have joined.
    """

    def __init__(self, rank: int = 0, local_rank: int = 0, size: int = 1) -> None:
        self.rank, self.local_rank, self.size = rank, local_rank, size
        self.is_main_process = rank == 0  # it alone writes files and prints
        self.rows = slice(rank, None, size)  # of a global batch, those that this process computes
        self.elastic = "TORCHELASTIC_RESTART_COUNT" in os.environ  # torchrun may restart processes if one is lost
        self.restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        self.device = torch.device("cpu")
        self.own_seconds, self.own_stop = 0.0, False
        self.shared_seconds, self.shared_stop = 0.0, False
        if size > 1:
            self._connect()

    @classmethod
    def from_environment(cls) -> "ProcessGroup":
        """Join the processes that torchrun started; ValueError if one of its environment variables is not set."""
        try:
            return cls(*[int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")])
        except KeyError as missing:
            raise ValueError(f"{missing} is not set, WORLD_SIZE is: start several processes with torchrun") from None

    def _connect(self) -> None:
        store, _, _ = next(distributed.rendezvous("env://"))
        start = self._count_starts(store)
        self.store = distributed.PrefixStore(f"start {start}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        again = start != "1" or self.restarted
        self.restarted = self.broadcast(lambda: again)  # torchrun counts restarts on each machine separately

    def _count_starts(self, store: distributed.Store) -> str:
        """Return how many times processes have started with this store, the same to all processes.

        torchrun may keep its store, and in it the addresses of lost processes, when it restarts them. Each process
        therefore asks under a new name until the main process has answered to that name.
        """
        if self.is_main_process:
            start = str(store.add("starts", 1))
            for rank in range(1, self.size):
                while not store.check([f"start {start} {rank}"]):
                    store.set(f"answer {store.get(f'call {rank}').decode()}", start)
                    time.sleep(0.02)
            return start
        name = uuid.uuid4().hex
        store.set(f"call {self.rank}", name)
        start = store.get(f"answer {name}").decode()
        store.set(f"start {start} {self.rank}", "joined")
        return start

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leave the group. One of several processes ends here; only the first one that fails reports its error."""
        if self.size == 1:
            return
        if error is None:
            self._wait()
            distributed.destroy_process_group()
            exit_now(0)  # torch threads that outlive the interpreter abort the process
        with suppress(RuntimeError):  # the store is gone, and with it every process that could have failed first
            if self.store.add("fail", 1) > 1:
                raise SystemExit(2)
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise ConnectionError("another process of this training was lost: the last state is intact") from error

    def place(self, device: torch.device) -> torch.device:
        """Return the device of this process, given the one chosen for all; ValueError if they cannot share it."""
        if self.size > 1 and device.type == "mps":
            raise ValueError(f"{self.size} processes cannot share an MPS device: use one, or --device cpu")
        if self.size > 1 and device.type == "cuda":
            count = torch.cuda.device_count()
            if self.local_rank >= count:
                raise ValueError(f"too few GPUs: {count} on this machine; use torchrun --nproc-per-node={count}")
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        self.device = device
        return device

    def check_divides(self, name: str, rows: int) -> None:
        """Raise ValueError if `rows` is not a multiple of the number of processes."""
        if rows % self.size:
            more = -(-rows // self.size) * self.size
            raise ValueError(f"{name} = {rows} cannot be shared among {self.size} processes: set it to {more}, say")

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError if `value` is not equal to that of the main process."""
        if self.broadcast(lambda: value) != value:
            raise ValueError(f"process {self.rank} has {what} other than process 0: all machines must read the same")

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process, and return its result in all processes."""
        made = [make() if self.is_main_process else None]
        if self.size > 1:
            distributed.broadcast_object_list(made)
        return cast(T, made[0])

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Let one process of each machine run the block first, to fill the cache; the others run it afterwards."""
        if self.local_rank:
            self._wait()
        yield
        if not self.local_rank:
            self._wait()

    def _wait(self) -> None:
        if self.size > 1:
            distributed.all_reduce(torch.zeros(1))  # on the CPU: NCCL has a shorter timeout

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with the main process's weights and with gradients that are means over all processes."""
        if self.size == 1:
            return module
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # newer torch renames the option
            return DistributedDataParallel(
                module, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB[self.device.type]
            )

    @contextmanager
    def fork_rng(self, seed: int) -> Iterator[None]:
        """Draw different random numbers in each of several processes; the global generator stays as it was."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else [], enabled=self.size > 1):
            if self.size > 1:
                torch.manual_seed((seed * self.size + self.rank) % 2**63)
            yield

    def all_reduce(self, *values: torch.Tensor | float) -> list[float]:
        """Return the sum over all processes of each value, a number or a tensor of one element."""
        if self.size == 1:
            return [value.item() if isinstance(value, torch.Tensor) else value for value in values]
        own = [*values, self.own_seconds if self.is_main_process else 0.0, float(self.own_stop)]
        packed = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.device).detach() for v in own])
        distributed.all_reduce(packed)
        *sums, self.shared_seconds, stopped = packed.tolist()
        self.shared_stop = stopped > 0
        return sums

    def seconds(self, own: float) -> float:
        """Return the seconds that the main process has trained; with several processes, as of the last `all_reduce`."""
        self.own_seconds = own
        return own if self.size == 1 else self.shared_seconds

    def any_stopped(self, stopping: bool) -> bool:
        """Return whether any process has been stopped; with several processes, as of the last `all_reduce`."""
        self.own_stop = stopping
        return stopping if self.size == 1 else self.shared_stop

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return all processes' rows `(B / size, ...)` as `(B, ...)` to the main process; the others get their own."""
        if self.size == 1:
            return tensor
        own = tensor.cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)] if self.is_main_process else None
        distributed.gather(own, parts)
        return torch.stack(parts, dim=1).flatten(0, 1) if parts else own
