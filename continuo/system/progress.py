"""Progress on standard error, with the time remaining: a live display on a terminal (rich), lines on a pipe."""

import json
import sys
import time
from typing import TextIO

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from continuo.system.text import printable

PLAIN_EVERY_S = 10.0
WIDE_COLUMNS, BAR_COLUMNS, SHORT_BAR_COLUMNS = 120, 24, 8  # width of a wide terminal, and of a bar in it or not
SPARE_COLUMNS = 6  # spaces between the parts of a line, and room for a longer clock
JOURNAL_EVERY_S = 0.5


def duration(seconds: float) -> str:
    """Return a duration as days, hours, minutes and seconds; it does not wrap after a day.

    >>> duration(75), duration(90_061)
    ('01:15', '1 d 01:01:01')
    """
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, second = divmod(rest, 60)
    clock = f"{minutes:02}:{second:02}" if whole < 3600 else f"{hours:02}:{minutes:02}:{second:02}"
    return f"{days} d {clock}" if days else clock


def clock(elapsed_s: float, remaining_s: float | None) -> str:
    """Return the elapsed and the remaining time in words.

    >>> clock(75, None), clock(75, 5)
    ('elapsed 01:15, remaining --:--', 'elapsed 01:15, remaining 00:05')
    """
    return f"elapsed {duration(elapsed_s)}, remaining {'--:--' if remaining_s is None else duration(remaining_s)}"


class _ClockColumn(ProgressColumn):
    """The clock of a bar, which runs between two updates."""

    def render(self, task: "rich.progress.Task") -> Text:
        ends = task.fields["ends"]
        return Text(clock(task.elapsed or 0.0, None if ends is None else ends - time.monotonic()))


class Display:
    """Messages and progress of a command, on standard error. Use it as a context manager.

    If `quiet`, it shows nothing but messages that are marked `always`; `stream` replaces standard error. `journal` also
    receives progress, as one JSON object a line: task, fraction done, seconds remaining, figures.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, journal: TextIO | None = None) -> None:
        self.quiet, self.stream, self.journal, self.bar_width = quiet, stream or sys.stderr, journal, 0
        self.live: Progress | None = None
        if not quiet and self.stream.isatty():
            note = TextColumn("{task.fields[note]}", markup=False)
            console = Console(file=self.stream)
            self.bar_width = BAR_COLUMNS if console.width >= WIDE_COLUMNS else SHORT_BAR_COLUMNS
            columns = (TextColumn("{task.description}"), BarColumn(self.bar_width), note, _ClockColumn())
            self.live = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str, *, always: bool = False) -> None:
        """Print one line, control characters as escapes; `always` prints it even if the display is quiet."""
        if self.quiet and not always:
            return
        safe = printable(text)
        if self.live:
            self.live.console.print(safe, markup=False, highlight=False, soft_wrap=True)
        else:
            print(safe, file=self.stream, flush=True)

    def task(self, name: str, total: float) -> "Task":
        """Begin a task that is done when its progress reaches `total`."""
        return Task(self, name, total)


class Task:
    """A task with a known end, shown as a bar or as lines."""

    def __init__(self, display: Display, name: str, total: float) -> None:
        self.display, self.name, self.total = display, name, total
        self.started = self.begun = self.last_line = time.monotonic()
        self.last_entry = 0.0
        self.first_done: float | None = None
        self.bar = display.live.add_task(name, total=total, note="", ends=None) if display.live else None

    def update(self, done: float, note: str = "", remaining_s: float | None = None, **figures: float | None) -> None:
        """Report progress up to the total, a note and figures; the remaining time is extrapolated if none is given."""
        if self.display.quiet and not self.display.journal:
            return
        now, done = time.monotonic(), min(done, self.total)  # the last step may end after the time that was given
        if self.first_done is None:
            self.first_done = done
        if done <= self.first_done:
            self.begun = now  # the time before the first progress says nothing about the rest
        if remaining_s is None:
            progress = done - self.first_done
            remaining_s = (now - self.begun) / progress * (self.total - done) if progress > 0 else None
        if self.display.journal and now - self.last_entry >= JOURNAL_EVERY_S:
            self.last_entry = now
            entry = {"task": self.name, "share": done / self.total, "remaining_s": remaining_s} | figures
            print(json.dumps(entry), file=self.display.journal, flush=True)
        if self.display.quiet:
            return
        if self.display.live and self.bar is not None:
            ends = None if remaining_s is None else now + remaining_s
            words = f"{self.name} {clock(now - self.started, remaining_s)}"
            room = max(0, self.display.live.console.width - len(words) - self.display.bar_width - SPARE_COLUMNS)
            shown = note if len(note) <= room else f"{note[: max(0, room - 1)]}…"
            self.display.live.update(self.bar, completed=done, note=shown, ends=ends)
        elif now - self.last_line >= PLAIN_EVERY_S:
            self.last_line = now
            text = ", ".join(filter(None, [note, clock(now - self.started, remaining_s)]))
            self.display.say(f"{self.name} {done / self.total:4.0%}: {text}")

    def close(self) -> None:
        """End the task and remove its bar."""
        if self.display.live and self.bar is not None:
            self.display.live.remove_task(self.bar)
