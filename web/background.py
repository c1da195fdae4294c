"""A script as a child process that somebody watches: its last words, and how it ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NICER = 5  # than whoever watches, so that a page answers while a training runs
TAIL_BYTES = 4096


class Job:
    """A Python script that runs in a session of its own; what it says goes to the file `log`.

    It outlives whoever started it: `stop` asks it to save and leave, as Ctrl-C does.
    """

    def __init__(self, script: Path, flags: Sequence[str], *, folder: Path, log: Path) -> None:
        self.log = log
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *flags],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        os.setpriority(os.PRIO_PROCESS, self.process.pid, NICER)

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll()

    def said(self, lines: int) -> list[str]:
        """The last lines that it wrote."""
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def stop(self) -> None:
        """Ask it to save and leave."""
        if self.status is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, within_s: float) -> None:
        """Stop it and wait; kill it if it does not leave."""
        self.stop()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
