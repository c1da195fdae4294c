"""Times on a grid, and changes of tempo and meter: shared by everything that reads or writes songs."""

from __future__ import annotations

from collections.abc import Iterable
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

    Args:
        changes: tuples of a time and the values in force from there on.
        stop: a time; the changes from there on are dropped.

    >>> effective_changes([(0, 90), (4, 90), (5, 60), (5, 70), (9, 80)], 9)
    [(0, 90), (5, 70)]
    """
    last_at = {change[0]: change for change in changes if change[0] < stop}
    found: list[Change] = []
    for _, change in sorted(last_at.items()):
        if not found or found[-1][1:] != change[1:]:
            found.append(change)
    return found


def change_in_force(changes: Iterable[Change], time: float, default: Change) -> Change:
    """Return the last change at or before a time; the first one also holds before its own time.

    >>> change_in_force([(2, 90), (4, 60)], 0, (0, 120))
    (2, 90)
    """
    found = default
    for number, change in enumerate(changes):
        if number == 0 or change[0] <= time:
            found = change
    return found
