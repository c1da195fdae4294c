"""Worker threads: work on many things in order, work ahead of a reader, and cancellation."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

WORKERS = min(os.cpu_count() or 1, 16)  # threads or processes
AHEAD = 256  # results computed before they are asked for, so that a long piece does not stop the others
_thread = threading.local()

T = TypeVar("T")
R = TypeVar("R")


def use_one_thread() -> None:
    """Compute with one thread from now on, in torch and in NumPy: on busy cores several would wait for each other."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


class Cancelled(Exception):
    """The caller stopped waiting for this work."""


def ordered_map(work: Callable[[T], R], things: Iterable[T], workers: int = WORKERS) -> Generator[R, None, None]:
    """Yield `work(thing)` for every thing, in order, with `workers` threads.

    Torch and NumPy start no further threads, so threads do not compete for cores and results do not depend on their
    number. Closing the generator (after an error or Ctrl-C) ends running work at its next `check_cancelled`.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads, stop, rest = torch.get_num_threads(), threading.Event(), iter(things)

    def begin() -> None:
        _thread.stop = stop
        torch.set_num_threads(1)

    pool, blas = ThreadPoolExecutor(workers, initializer=begin), threadpool_limits(1, user_api="blas")
    try:
        waiting: deque[Future[R]] = deque(pool.submit(work, thing) for thing in islice(rest, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting += (pool.submit(work, thing) for thing in islice(rest, 1))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        blas.restore_original_limits()


def prefetch(things: Iterable[T], batch_size: int, batches: int) -> Generator[T, None, None]:
    """Yield the same things while a thread makes the next `batches` batches of `batch_size` things."""
    rest = iter(things)
    maker = ThreadPoolExecutor(1)
    try:
        coming = deque(maker.submit(list, islice(rest, batch_size)) for _ in range(batches))
        while batch := coming.popleft().result():
            coming.append(maker.submit(list, islice(rest, batch_size)))
            yield from batch
    finally:
        maker.shutdown(cancel_futures=True)


def check_cancelled() -> None:
    """Raise `Cancelled` if the generator of `ordered_map` was closed; to be called often in long work."""
    if (stop := getattr(_thread, "stop", None)) and stop.is_set():
        raise Cancelled
