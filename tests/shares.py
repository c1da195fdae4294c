"""Work for `test_crew.py`: other processes find it by this module's name."""

import os
import signal
import time

import torch


def squares(number):
    yield number, number**2
    yield number, os.getpid()


def threads(_):
    yield torch.get_num_threads()


def failing(number):
    yield number
    if number == 3:
        raise ValueError("three")


def dying(number):
    yield number
    os.kill(os.getpid(), signal.SIGKILL)


def cleaning(folder):
    """Works for a minute, and clears away."""
    mark = folder / str(os.getpid())
    try:
        mark.touch()
        yield str(mark)
        time.sleep(60)
    finally:
        mark.unlink()


def hears_no_ctrl_c(_):
    yield signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
