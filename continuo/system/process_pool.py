"""Child processes that share work in Python itself: threads would wait for the interpreter's lock."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import NoReturn, TypeVar

T = TypeVar("T")
R = TypeVar("R")
TERM_RETRY_S = 2.0  # SIGTERM is sent again after this time: Python drops an exception inside a weakref callback
_working = False  # whether this child process is inside a task


class Terminated(BaseException):
    """SIGTERM arrived during a task."""


def process_map(work: Callable[[T], Iterator[R]], things: Sequence[T], processes: int) -> Generator[R, None, None]:
    """Yield everything that `work` yields for each thing, thing by thing as they are finished.

    With one process the caller does the work itself, in order. Otherwise child processes compute with one torch thread
    each, and `work` and `things` must be picklable. Closing the generator ends them through their cleanup; Ctrl-C is
    handled by the caller alone. Besides what `work` raises, ChildProcessError says that a child process was killed.
    """
    if processes == 1:
        for thing in things:
            yield from work(thing)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    resource_tracker.ensure_running()  # its own start unblocks signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: children never receive Ctrl-C
    try:
        futures = [pool.submit(_collect, work, thing) for thing in things]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        for future in as_completed(futures):
            yield from future.result()
    except BrokenProcessPool:
        raise ChildProcessError("a process that did a part of this work was killed: is memory short?") from None
    finally:
        for future in futures:
            future.cancel()
        children = set(multiprocessing.active_children()) - before
        while children := {child for child in children if child.is_alive()}:
            for child in children:
                child.terminate()
            for child in children:
                child.join(TERM_RETRY_S)
        pool.shutdown()


def _begin() -> None:
    """Prepare a child process, before its work imports torch."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _terminate(*_: object) -> None:
    if _working:
        raise Terminated
    os._exit(0)


def _collect(work: Callable[[T], Iterator[R]], thing: T) -> list[R]:
    global _working
    _working = True
    try:
        return list(work(thing))
    except Terminated:
        os._exit(1)  # the pool would take this for a result, and wait for the next task
    finally:
        _working = False


def _exit_with_parent() -> NoReturn:
    """End this process, through the cleanup of its task, after the parent was killed with SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while _working:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(TERM_RETRY_S)
    os._exit(0)
