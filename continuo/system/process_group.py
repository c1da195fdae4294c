"""The processes that train one model together. A `ProcessGroup` has one process, and its methods exchange nothing.

`distributed` has the team of several. Every method that exchanges something must be called by all of its
processes, in the same order.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")


class ProcessGroup:
    """One process alone. Use as a context manager.

    Attributes:
        rank: of this process among `size`.
        is_main_process: whether it is the one that writes and speaks.
        rows: which of the rows of a global batch are its own.
        elastic: whether torchrun may start the processes again when one of them is lost.
        restarted: whether it did.
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.is_main_process = self.rank == 0
        self.rows = slice(self.rank, None, self.size)
        self.elastic = "TORCHELASTIC_RESTART_COUNT" in os.environ
        self.restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave; of several processes that end in an error the first one says why, and the others end silently."""

    def place(self, device: "torch.device") -> "torch.device":
        """The device of this process, where `device` is what all were told to use.

        Raises:
            ValueError: it cannot be shared, or there are too few of it.
        """
        return device

    def check_divides(self, name: str, rows: int) -> None:
        """Refuse a number of rows of which not every process could have the same share.

        Raises:
            ValueError: says which number could be shared.
        """
        if rows % self.size:
            more = -(-rows // self.size) * self.size
            raise ValueError(f"{name} = {rows} cannot be shared among {self.size} processes: set it to {more}, say")

    def check_same(self, what: str, value: Any) -> None:
        """Refuse to work with processes that were given something else.

        Raises:
            ValueError: `value` is not what it is for the process that leads.
        """

    def broadcast(self, make: Callable[[], T]) -> T:
        """For all, what `make` gives the process that leads."""
        return make()

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """One process of each machine goes ahead, and fills the cache; the others follow when it is done."""
        yield

    def wrap(self, module: "nn.Module") -> "nn.Module":
        """The module with the weights that it has for the leader, and gradients that are means over all processes."""
        return module

    @contextmanager
    def fork_rng(self, seed: int) -> Iterator[None]:
        """Randomness that differs from process to process, and has no influence on what is drawn afterwards."""
        yield

    def all_reduce(self, *values: "torch.Tensor | float") -> list[float]:
        """The sum over all processes of each value."""
        return [value.item() if hasattr(value, "item") else value for value in values]

    def seconds(self, own: float) -> float:
        """The seconds that the leader has trained, for all; of several processes those that it told a step ago.

        What is told here and to `any_stopped` travels with the next `all_reduce`, and so costs nothing.
        """
        return own

    def any_stopped(self, stopping: bool) -> bool:
        """Whether any process was to stop; of several processes a step ago."""
        return stopping

    def gather(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The rows of all processes in the order of the global batch, for the leader; for others their own."""
        return tensor
