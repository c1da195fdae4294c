"""A child process that answers requests in lines of JSON, one request at a time; replaced when it stalls or dies."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from continuo.system.paths import child_environment

SILENCE_S = 90.0  # without an answer until a process is taken to be stuck
GIVE_UP_S = 5.0  # that it may take to give a request up
MAX_LINE = 1 << 24
LAST = {"done", "failed", "cancelled"}
Answer = dict[str, Any]
Tell = Callable[[Answer], Awaitable[None]]


class Worker:
    """Runs `command`, which reads requests from standard input and writes answers, the last of kind `LAST`.

    Whoever asks while it is busy waits in line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.process: asyncio.subprocess.Process | None = None
        self.turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self.turn.locked()

    async def ask(self, request: dict[str, Any], tell: Tell) -> None:
        """Make a request and tell every answer; cancelling this gives the request up."""
        if self.busy:
            await tell({"kind": "queued"})
        async with self.turn:
            process = await self._running()
            ended = False
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
                while not ended:
                    answer = await asyncio.wait_for(self._answer(process), SILENCE_S)
                    ended = answer["kind"] in LAST
                    await tell(answer)
            except (TimeoutError, EOFError) as error:
                await self.close()
                ended = True
                late = isinstance(error, TimeoutError)
                reason = f"took longer than {SILENCE_S:.0f} s" if late else "ended unexpectedly"
                await tell({"kind": "failed", "text": f"reading or making this {reason} and was given up"})
            finally:
                if not ended:
                    await self._give_up(process)

    async def close(self) -> None:
        """End the process; who asks next gets a new one."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None

    async def _running(self) -> asyncio.subprocess.Process:
        if self.process is None or self.process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env=child_environment(),
                stdin=pipe,
                stdout=pipe,
                limit=MAX_LINE,
                start_new_session=True,
            )
        return self.process

    async def _answer(self, process: asyncio.subprocess.Process) -> Answer:
        """The next answer; what was broken off in the middle is skipped. Raises EOFError where the process ended."""
        while True:
            line = await process.stdout.readline()  # type: ignore[union-attr]
            if not line:
                raise EOFError
            with contextlib.suppress(ValueError):
                return dict(json.loads(line))

    async def _give_up(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(GIVE_UP_S):
                while (await self._answer(process))["kind"] not in LAST:
                    pass
        except (TimeoutError, EOFError):
            await self.close()
