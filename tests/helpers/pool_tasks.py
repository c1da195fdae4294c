"""Define tasks for the process pool of tests/system/test_process_pool.py; child processes import it by name."""

import os
import signal
import time

from continuo.system.process_pool import Terminated


class Meeting:
    """A task that a process can unpickle only once `count` processes unpickle it."""

    def __init__(self, folder, count):
        self.folder, self.count = folder, count

    def __setstate__(self, state):
        self.__dict__ |= state
        (self.folder / str(os.getpid())).touch()
        for _ in range(1000):  # 20 s
            if len([*self.folder.iterdir()]) >= self.count:
                return
            time.sleep(0.02)
        raise TimeoutError("the others never came")

    def __call__(self, thing):
        yield len(thing)


def squares(number):
    yield number, number**2
    yield number, os.getpid()


def squares_by_two(folder, number):
    """Yield as `squares` does, once two processes work on it."""
    Meeting(folder, 2).__setstate__({})
    yield from squares(number)


def threads(_):
    import torch

    yield torch.get_num_threads()


def failing(number):
    yield number
    if number == 3:
        raise ValueError("three")


def dying(how):
    yield how
    os.kill(os.getpid(), how)


def cleaning(folder):
    """Work for a minute with a mark in `folder`, and remove it in the end; without a folder yield at once."""
    if folder is None:
        yield "quick"
        return
    mark = folder / str(os.getpid())
    try:
        mark.touch()
        yield str(mark)
        time.sleep(60)
    finally:
        mark.unlink()


def cleaning_in_the_end(folder):
    """Work as `cleaning` does, but lose the first signal, as Python does inside a weak reference's callback."""
    if folder is None:
        yield "quick"
        return
    mark = folder / str(os.getpid())
    try:
        mark.touch()
        yield str(mark)
        try:
            time.sleep(60)
        except Terminated:
            time.sleep(60)
    finally:
        mark.unlink()


def blocks_ctrl_c(_):
    """Yield whether this process blocks SIGINT."""
    yield signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
