"""Times on a grid, and changes of tempo and meter: shared by everything that reads or writes songs."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeVar

Change = TypeVar("Change", bound=tuple[float, ...])


def nearest_step(tick: int, step: int) -> int:
    """Return the number of the grid step nearest to a tick, the later one of two; `step` is its length in ticks.

    >>> [nearest_step(tick, 120) for tick in (59, 60, 180)]
    [0, 1, 2]
    """
    return (2 * tick + step) // (2 * step)


def effective_changes(changes: Iterable[Change], stop: float) -> list[Change]:
    """Return the changes before `stop` that change something, sorted; of several at one time the last counts.

    A change is a tuple of a time and the values in force from there on.

    >>> effective_changes([(0, 90), (4, 90), (5, 60), (5, 70), (9, 80)], 9)
    [(0, 90), (5, 70)]
    """
    last_at = {change[0]: change for change in changes if change[0] < stop}
    equal_runs = groupby((change for _, change in sorted(last_at.items())), key=lambda change: change[1:])
    return [next(run) for _, run in equal_runs]


def change_in_force(changes: Sequence[Change], time: float, default: Change) -> Change:
    """Return the last change at or before a time; the first one also holds before its own time.

    >>> change_in_force([(2, 90), (4, 60)], 0, (0, 120))
    (2, 90)
    """
    earlier = [change for change in changes if change[0] <= time]
    return [default, *changes[:1], *earlier][-1]
