"""Test the process pool: results, errors, and the end of its processes in every case."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from functools import partial

import pool_tasks
import pytest
from conftest import ROOT

from continuo.system import process_pool
from continuo.system.process_pool import process_map


def test_process_map_with_two_processes_does_everything_in_both(tmp_path):
    made = list(process_map(partial(pool_tasks.squares_by_two, tmp_path), range(5), 2))
    values = Counter(number for number, _ in made)
    assert values == dict.fromkeys(range(5), 2)
    workers = {value for number, value in made if value != number**2}
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_process_map_with_one_process_works_here_in_order():
    made = list(process_map(pool_tasks.squares, range(3), 1))
    assert made == [pair for n in range(3) for pair in ((n, n**2), (n, os.getpid()))]


def test_process_map_processes_compute_with_one_thread():
    assert list(process_map(pool_tasks.threads, [0], 2)) == [1]  # a second process would import torch as well


def test_process_map_starts_all_processes_before_one_has_read_its_work(tmp_path):
    """The work is larger than a pipe holds, so a parent that sends it at the start would wait for that process."""
    assert list(process_map(pool_tasks.Meeting(tmp_path, 2), [bytes(1 << 20)] * 2, 2)) == [1 << 20] * 2


def test_process_map_error_reaches_the_caller():
    with pytest.raises(ValueError, match="three"):
        list(process_map(pool_tasks.failing, range(6), 2))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_process_map_killed_process_raises(how):
    with pytest.raises(ChildProcessError, match="killed"):
        list(process_map(pool_tasks.dying, [how] * 2, 2))


@pytest.mark.parametrize(
    ("work", "retry_s"),
    [(pool_tasks.cleaning, 60.0), (pool_tasks.cleaning_in_the_end, 0.3)],  # s; the first needs one signal alone
)
def test_process_map_closed_early_ends_running_work_through_its_cleanup(tmp_path, monkeypatch, work, retry_s):
    monkeypatch.setattr(process_pool, "TERM_RETRY_S", retry_s)
    with closing(process_map(work, [None, tmp_path, tmp_path], 2)) as results:
        assert next(results) == "quick"
        deadline = time.monotonic() + 60
        while len([*tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len([*tmp_path.iterdir()]) == 2
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert not [*tmp_path.iterdir()]


def test_process_map_killed_parent_ends_its_processes(tmp_path):
    """A parent killed with -9 cannot signal its child processes."""
    code = "import sys, pathlib, pool_tasks\nfrom continuo.system.process_pool import process_map\n"
    code += "list(process_map(pool_tasks.cleaning, [pathlib.Path(sys.argv[1])] * 2, 2))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while len([*tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len([*tmp_path.iterdir()]) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while [*tmp_path.iterdir()] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [*tmp_path.iterdir()]


def test_process_map_ctrl_c_while_starting_is_not_lost(monkeypatch):
    """Interrupt right after a process has started."""
    start = multiprocessing.get_context("spawn").Process.start

    def interrupted(process):
        start(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(process_map(pool_tasks.squares, range(4), 2))


def test_process_map_child_processes_survive_ctrl_c():
    """The child processes ignore SIGINT, and the parent keeps its signal handlers."""
    before = signal.getsignal(signal.SIGINT)
    with closing(process_map(pool_tasks.squares, range(4), 2)) as coming:
        made = [next(coming) for _ in range(4)]
        for pid in {value for number, value in made if value != number**2}:
            os.kill(pid, signal.SIGINT)
        made += coming
    assert len(made) == 8
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_process_map_all_child_processes_block_ctrl_c():
    """Python's resource tracker, which the first start of a process starts, unblocks signals."""
    code = "import pool_tasks\nfrom continuo.system.process_pool import process_map\n"
    code += "print(list(process_map(pool_tasks.blocks_ctrl_c, [1, 2], 2)))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True, capture_output=True, text=True)
    assert done.stdout == "[True, True]\n"
