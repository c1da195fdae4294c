"""Work on many things at once: in threads, in order, and given up at once when it is interrupted."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

WORKERS = min(os.cpu_count() or 1, 16)
AHEAD = 256  # things that may be done before they are asked for, so that a long one holds up no other
_here = threading.local()

T = TypeVar("T")
R = TypeVar("R")


class Cancelled(Exception):
    """Nobody waits for this work any more."""


def ordered_map(work: Callable[[T], R], things: Iterable[T], workers: int = WORKERS) -> Generator[R, None, None]:
    """`work(thing)` of every thing, in their order, `workers` at a time.

    Each worker computes with one thread of torch, so workers do not fight for cores and what they make does not
    depend on how many they are. Who closes this (an error, Ctrl-C) hardly waits: work that calls
    `check_cancelled` ends there.
    """
    import torch

    threads, stop, rest = torch.get_num_threads(), threading.Event(), iter(things)

    def begin() -> None:
        _here.stop = stop
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        waiting: deque[Future[R]] = deque(pool.submit(work, thing) for thing in islice(rest, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting += (pool.submit(work, thing) for thing in islice(rest, 1))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def prefetch(things: Iterable[T], at_once: int, batches: int) -> Generator[T, None, None]:
    """The same things, but a thread of its own makes the next ones while these are used, `at_once` in a batch."""
    rest = iter(things)
    next_ones = lambda: list(islice(rest, at_once))  # noqa: E731
    maker = ThreadPoolExecutor(1)
    try:
        coming = deque(maker.submit(next_ones) for _ in range(batches))
        while made := coming.popleft().result():
            coming.append(maker.submit(next_ones))
            yield from made
    finally:
        maker.shutdown(cancel_futures=True)


def check_cancelled() -> None:
    """Call it often in long work: it ends the work that nobody waits for any more.

    Raises:
        Cancelled: whoever asked for the work has left.
    """
    if (stop := getattr(_here, "stop", None)) and stop.is_set():
        raise Cancelled
