"""Child processes of the studio: scripts that run in the background, and a worker that answers requests."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from continuo.model.metadata import Json
from continuo.system.paths import child_environment

NICENESS = 5  # added to that of the studio, so that the page answers while a training runs
TAIL_BYTES = 1 << 18  # of a file that grows while it is read
MAX_SILENCE_S = 90.0  # without an answer, after which a worker counts as stuck
MAX_CANCEL_S = 5.0  # for a worker to give up a request
MAX_LINE_BYTES = 1 << 24  # of one answer
LAST_KINDS = {"done", "failed", "cancelled"}
Answer = Json  # of a worker: `kind` is always there, and the other keys depend on it


class BackgroundProcess:
    """A Python script that runs in a session of its own and writes what it prints to the file `log`."""

    def __init__(self, script: Path, flags: Sequence[str], *, folder: Path, log: Path) -> None:
        self.log, self.stop_requested = log, False
        words = [sys.executable, str(script), *flags]
        with open(log, "wb") as output:
            self.process = Popen(words, cwd=folder, stdin=DEVNULL, stdout=output, stderr=output, start_new_session=True)
        os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def state(self) -> str:
        """Return running, stopping, paused (it ended because it was stopped), done or failed."""
        if self.running:
            return "stopping" if self.stop_requested else "running"
        if self.stop_requested:
            return "paused"
        return "failed" if self.process.returncode else "done"

    def stop(self) -> None:
        """Ask the script to save and end."""
        if self.running:
            self.stop_requested = True
            self.process.terminate()

    def end(self, timeout_s: float) -> None:
        """Stop the script and wait for its end; kill it after `timeout_s`."""
        self.stop()
        try:
            self.process.wait(timeout_s)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()


def complete_lines(path: Path) -> list[str]:
    """Return the complete lines in the last `TAIL_BYTES` of a file, none if there is no file."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        skipped = file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
    return lines[1:] if skipped else lines


class RequestWorker:
    """A child process that answers requests one at a time, and is replaced when it dies or stalls.

    `command` reads requests from standard input, one JSON object a line, and answers each with several lines of JSON,
    the last of a kind of `LAST_KINDS`. SIGINT makes it give up a request.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.process: asyncio.subprocess.Process | None = None
        self.turn = asyncio.Lock()
        self.cancelling: asyncio.Task[None] | None = None

    async def ask(self, request: Mapping[str, object]) -> AsyncGenerator[Answer]:
        """Send a request when it is its turn, and yield the answers; closing this iterator gives up the request."""
        if self.turn.locked():
            yield {"kind": "queued"}
        async with self.turn:
            if self.cancelling:
                await asyncio.wait([self.cancelling])
            process = await self._start()
            ended = False
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
                while not ended:
                    answer = await asyncio.wait_for(self._read(process), MAX_SILENCE_S)
                    ended = answer["kind"] in LAST_KINDS
                    yield answer
            except (TimeoutError, EOFError) as error:
                await self.close()
                ended = True
                late = isinstance(error, TimeoutError)
                reason = f"took longer than {MAX_SILENCE_S:.0f} s" if late else "ended unexpectedly"
                yield {"kind": "failed", "text": f"reading the prompt or making the take {reason}: try it again"}
            finally:
                if not ended:
                    self.cancelling = asyncio.create_task(self._cancel(process))

    async def close(self) -> None:
        """End the process; the next request starts another one."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None

    async def _start(self) -> asyncio.subprocess.Process:
        """Return the process that runs, or start it."""
        if self.process is None or self.process.returncode is not None:
            environment = child_environment()
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=PIPE, stdout=PIPE, limit=MAX_LINE_BYTES, env=environment, start_new_session=True
            )
        return self.process

    async def _read(self, process: asyncio.subprocess.Process) -> Answer:
        """Return the next answer and skip lines that a cancelled request broke off; EOFError: the process ended."""
        while line := await process.stdout.readline():  # type: ignore[union-attr]
            with contextlib.suppress(ValueError):
                answer: Answer = json.loads(line)
                return answer
        raise EOFError

    async def _cancel(self, process: asyncio.subprocess.Process) -> None:
        """Make the process give up its request; end it if it does not."""
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(MAX_CANCEL_S):
                while (await self._read(process))["kind"] not in LAST_KINDS:
                    pass
        except (TimeoutError, EOFError):
            await self.close()
