"""Work that processes share: all of it is done, errors reach who waits, and nobody works for nobody."""

import os
import signal
import time
from collections import Counter
from contextlib import closing

import pytest
import shares

from continuo.crew import shared_out


def test_all_is_done_by_as_many_processes_as_were_asked_for():
    made = list(shared_out(shares.squares, range(5), 2))
    values = Counter(number for number, _ in made)
    assert values == dict.fromkeys(range(5), 2)
    workers = {value for number, value in made if value != number**2}
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_one_process_is_this_one_and_works_in_order():
    made = list(shared_out(shares.squares, range(3), 1))
    assert made == [pair for n in range(3) for pair in ((n, n**2), (n, os.getpid()))]


def test_each_computes_with_one_thread():
    assert list(shared_out(shares.threads, range(2), 2)) == [1, 1]


def test_an_error_reaches_who_waits():
    with pytest.raises(ValueError, match="three"):
        list(shared_out(shares.failing, range(6), 2))


def test_a_process_that_is_killed_is_told_of():
    with pytest.raises(ChildProcessError, match="killed"):
        list(shared_out(shares.dying, range(2), 2))


def test_who_is_not_waited_for_leaves_by_way_of_its_clearing(tmp_path):
    with closing(shared_out(shares.cleaning, [tmp_path] * 2, 2)) as coming:
        marks = {next(coming), next(coming)}
        assert len(marks) == 2
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert not [*tmp_path.iterdir()]


def test_ctrl_c_is_for_who_started_them():
    """Handlers are what they were, and the processes hear nothing of it: they live on when all are interrupted."""
    before = signal.getsignal(signal.SIGINT)
    with closing(shared_out(shares.squares, range(4), 2)) as coming:
        made = [next(coming) for _ in range(4)]
        for pid in {value for number, value in made if value != number**2}:
            os.kill(pid, signal.SIGINT)
        made += coming
    assert len(made) == 8
    assert signal.getsignal(signal.SIGINT) is before
