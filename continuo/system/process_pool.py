"""Processes that work beside this one, for work in Python itself: threads would wait for each other there."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
R = TypeVar("R")
LEAVING = (signal.SIGTERM, signal.SIGHUP)
TOLD_TO_LEAVE = 128 + signal.SIGTERM  # status of a process; of interest where it was not told by who waits for it
SWALLOWED_S = 2.0  # after which one that still works has not heard that it shall leave


def process_map(work: Callable[[T], Iterator[R]], things: Sequence[T], processes: int) -> Generator[R, None, None]:
    """What `work` gives for every thing, as it is made; by this process in order if it is the only one.

    Other processes get `work` and their share of the things pickled, compute with one thread of torch each, and end
    with whoever closes this.

    Raises:
        ChildProcessError: one of them was killed.
        Exception: what `work` raises.
    """
    if processes == 1:
        for thing in things:
            yield from work(thing)
        return
    with ending([_start() for _ in range(processes)]) as crew:
        for first, to_member in enumerate(crew):
            with suppress(BrokenPipeError, ConnectionResetError):  # it was killed, which is told below
                to_member.send((work, things[first::processes]))
        while crew:
            for pipe in wait([*crew]):
                assert isinstance(pipe, Connection)
                try:
                    made = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process = crew.pop(pipe)
                    process.join()
                    if process.exitcode:
                        raise ChildProcessError("a process that worked on a part of this was killed: is memory short?"
                                                ) from None  # fmt: skip
                    continue
                if isinstance(made, Exception):
                    raise made
                yield made


Crew = dict[Connection, Any]  # the pipe to and from a process, and the process


@contextmanager
def ending(members: list[tuple[Connection, Any]]) -> Iterator[Crew]:
    """Those that still work when it is left are told to leave, and waited for."""
    try:
        yield dict(members)
    finally:
        for _, process in members:
            process.terminate()
        for _, process in members:
            process.join()


def _start() -> tuple[Connection, Any]:
    """A process that waits for its work: with that in hand, each would start only once the one before it had."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_member, args=(theirs,), daemon=True)
    resource_tracker.ensure_running()  # else the first start begins it, which unblocks signals again
    # Is handed down: Ctrl-C is for who started them; and who is told to leave gives them whole what they begin with.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *LEAVING})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _member(pipe: Connection) -> None:
    """A process's part: gets work and things, and sends what it makes, or the error that ended it."""

    def leave(*_: object) -> NoReturn:
        again = threading.Timer(SWALLOWED_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
        sys.exit(TOLD_TO_LEAVE)  # by way of whatever has to be cleaned away, unless it comes where Python drops it

    sys.unraisablehook = lambda lost: None if lost.exc_type is SystemExit else sys.__unraisablehook__(lost)
    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEAVING)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    try:
        work, things = pipe.recv()
    except EOFError:
        return  # there will be none
    try:
        for thing in things:
            for made in work(thing):
                pipe.send(made)
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody waits any more
    except Exception as error:
        pipe.send(error)


def _leave_with_parent() -> None:
    """Who is killed with -9 can tell nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
