"""A team of several processes, on one machine or more, as torchrun starts them.

Its environment variables say who a process is. Tensors on the CPU travel by gloo, those on GPUs by NCCL.
"""

import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from continuo.system.process_group import ProcessGroup

PATIENCE = timedelta(hours=24)  # the first process may decode a large corpus while the others wait
CORNER = "start {}"
BUCKET_MB = {"cpu": 4, "cuda": 25}  # of gradients that travel together; torch's own 25 leave a CPU waiting at the end
T = TypeVar("T")


class TorchProcessGroup(ProcessGroup):
    """What `ProcessGroup` says, for the processes that the environment describes.

    Raises:
        ValueError: the environment is incomplete.
    """

    def __init__(self) -> None:
        try:
            self.rank, self.size, self.local_rank = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        except KeyError as missing:
            raise ValueError(f"{missing} is not set, WORLD_SIZE is: start several processes with torchrun") from None
        super().__init__()
        self.device = torch.device("cpu")
        self.own_seconds, self.stopping = 0.0, False
        self.agreed_seconds, self.agreed_to_stop = 0.0, False
        shared, _, _ = next(distributed.rendezvous("env://"))
        corner = self._meet(shared)
        self.store = distributed.PrefixStore(corner, shared)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE
        )
        again = corner != CORNER.format(1) or self.restarted
        self.restarted = self.broadcast(lambda: again)  # torchrun counts on each machine by itself

    def _meet(self, store: distributed.Store) -> str:
        """A prefix for what these processes keep in the store, the same for all.

        torchrun may keep its store when it starts processes again, and with it the addresses of those that are gone. So
        each one calls by a name of its own, until the leader has answered to that name.
        """
        if self.is_main_process:
            corner = CORNER.format(store.add("starts", 1))
            for rank in range(1, self.size):
                while not store.check([f"{corner} {rank}"]):
                    store.set(f"answer {store.get(f'call {rank}').decode()}", corner)
                    time.sleep(0.02)
            return corner
        name = uuid.uuid4().hex
        store.set(f"call {self.rank}", name)
        corner = store.get(f"answer {name}").decode()
        store.set(f"{corner} {self.rank}", "heard")
        return corner

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._leave()
        elif not self._is_first_to("fail"):
            raise SystemExit(2)
        elif isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise ConnectionError("another process of this training was lost: the last state is intact") from error

    def _leave(self) -> None:
        """End this process, all being done: torch threads that outlived the interpreter aborted it at its end."""
        self._wait()
        distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _is_first_to(self, act: str) -> bool:
        try:
            return bool(self.store.add(act, 1) == 1)
        except RuntimeError:  # the store is gone, and with it whoever could have been first
            return True

    def place(self, device: torch.device) -> torch.device:
        if device.type == "mps":
            raise ValueError(f"{self.size} processes cannot share an MPS device: use one, or --device cpu")
        if device.type == "cuda":
            count = torch.cuda.device_count()
            if self.local_rank >= count:
                raise ValueError(f"too few GPUs: {count} on this machine; use torchrun --nproc-per-node={count}")
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        self.device = device
        return device

    def check_same(self, what: str, value: Any) -> None:
        if self.broadcast(lambda: value) != value:
            raise ValueError(f"process {self.rank} has {what} other than process 0: all machines must read the same")

    def broadcast(self, make: Callable[[], T]) -> T:
        said: list[Any] = [make() if self.is_main_process else None]
        distributed.broadcast_object_list(said)
        return said[0]

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        if self.local_rank:
            self._wait()
        yield
        if not self.local_rank:
            self._wait()

    def _wait(self) -> None:
        distributed.all_reduce(torch.zeros(1))  # on the CPU: NCCL has a shorter patience

    def wrap(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():  # newer versions of torch call the option otherwise, older ones know no other
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                module, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB[self.device.type]
            )

    @contextmanager
    def fork_rng(self, seed: int) -> Iterator[None]:
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((seed * self.size + self.rank) % 2**63)
            yield

    def all_reduce(self, *values: torch.Tensor | float) -> list[float]:
        mine = [*values, self.own_seconds if self.is_main_process else 0.0, float(self.stopping)]
        packed = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.device).detach() for v in mine])
        distributed.all_reduce(packed)
        *sums, self.agreed_seconds, stopping = packed.tolist()
        self.agreed_to_stop = stopping > 0
        return sums

    def seconds(self, own: float) -> float:
        self.own_seconds = own
        return self.agreed_seconds

    def any_stopped(self, stopping: bool) -> bool:
        self.stopping = stopping
        return self.agreed_to_stop

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        mine = tensor.cpu().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)] if self.is_main_process else None
        distributed.gather(mine, parts)
        return torch.stack(parts, dim=1).flatten(0, 1) if parts else mine
