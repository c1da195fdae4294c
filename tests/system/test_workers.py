"""Test work in threads: its order, its errors and its cancellation."""

import threading
import time
from contextlib import closing

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from continuo.system import workers
from continuo.system.workers import check_cancelled, ordered_map, prefetch, use_one_thread


def test_ordered_map_results_keep_the_order():
    def work(number):
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number**2

    assert list(ordered_map(work, range(40), workers=4)) == [n**2 for n in range(40)]


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_ordered_map_workers_compute_with_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threadpool_limits(2, user_api="blas"):
            found = list(ordered_map(lambda _: (torch.get_num_threads(), blas_threads()), range(4), workers=2))
            assert found == [(1, {1})] * 4
            assert (torch.get_num_threads(), blas_threads()) == (3, {2})
    finally:
        torch.set_num_threads(before)


def test_use_one_thread_limits_torch_and_numpy():
    before = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        use_one_thread()
        assert (torch.get_num_threads(), blas_threads()) == (1, {1})
    torch.set_num_threads(before)


def test_ordered_map_works_ahead_a_limited_number(monkeypatch):
    monkeypatch.setattr(workers, "AHEAD", 5)
    begun = []
    with closing(ordered_map(begun.append, range(100), workers=2)) as outcomes:
        for _ in range(10):
            next(outcomes)
        time.sleep(0.1)
    assert 10 <= len(begun) <= 15


def test_ordered_map_error_reaches_the_caller_in_its_place():
    def work(number):
        if number == 3:
            raise ValueError("three")
        return number

    outcomes = ordered_map(work, range(10), workers=4)
    assert [next(outcomes) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(outcomes)


def test_ordered_map_closed_ends_its_work():
    """Close while two items work for a minute and many wait: it ends at once, and no other item begins."""
    begun, both = [], threading.Event()

    def work(number):
        begun.append(number)
        if len(begun) == 3:
            both.set()
        for _ in range(600 if number else 0):
            check_cancelled()
            time.sleep(0.1)

    with closing(ordered_map(work, range(50), workers=2)) as outcomes:
        next(outcomes)
        assert both.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert len(begun) == 3


def test_check_cancelled_outside_of_workers_does_nothing():
    check_cancelled()


def test_prefetch_gives_everything_in_order_until_closed():
    assert list(prefetch(range(10), 4, 2)) == list(range(10))
    assert list(prefetch([], 4, 2)) == []
    asked = []
    with closing(prefetch((asked.append(n) or n for n in range(1000)), 4, 2)) as things:
        assert next(things) == 0
    assert 4 <= len(asked) <= 8


def test_prefetch_error_reaches_the_caller():
    def failing():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(prefetch(failing(), 1, 2))
