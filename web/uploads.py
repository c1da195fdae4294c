"""What lies on the studio's desk: files that were brought along, and takes; each in a folder of its own."""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continuo.system.paths import child_environment
from continuo.system.text import printable

MAX_FILE_BYTES, MAX_KEPT_BYTES = 200 << 20, 4 << 30  # bytes: of a file, of all that is kept
MAX_UPLOADS_PER_MINUTE = 30
LOOK_S = 60.0  # that a file may take to be read
MAX_NAME = 80
SERVED = {".wav", ".mid", ".musicxml", ".svg"}


class TooLarge(ValueError):
    """A file is larger than is taken."""


class TooMany(ValueError):
    """Files come faster than they are taken."""


class Absent(ValueError):
    """There is no such thing on the desk."""


@dataclass(frozen=True)
class Entry:
    """Something that can be heard and continued.

    Attributes:
        id: also the name of its folder.
        path: what a model is given to continue.
        name: for people.
    """

    id: str
    path: Path
    name: str

    def words(self, text: str) -> str:
        """`text` without what only this computer knows."""
        return text.replace(str(self.path), self.name).replace(self.path.name, self.name)


class Desk:
    """Entries by their id, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.taken: deque[float] = deque(maxlen=MAX_UPLOADS_PER_MINUTE)
        self.looking = asyncio.Lock()

    def entry(self, name: str) -> Entry:
        """Raises Absent."""
        try:
            return self.entries[name]
        except KeyError:
            raise Absent("that is not here any more: was the studio started anew?") from None

    def file(self, name: str, file: str) -> Path:
        """A sound, a page or a score of an entry. Raises Absent."""
        path = self.folder / self.entry(name).id / Path(file).name
        if path.suffix not in SERVED or not path.is_file():
            raise Absent("there is no such file")
        return path

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """A folder for something new, gone again where that fails. Raises ValueError where there is no room."""
        if sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) > MAX_KEPT_BYTES:
            raise ValueError("this studio keeps more than it has room for: download what you like, and start it anew")
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def take_in(self, name: str, chunks: AsyncIterator[bytes], width: int) -> dict[str, Any]:
        """Keep a file that somebody brings, and look at it.

        Raises:
            ValueError: its name has no ending, it cannot be read, is too large, or comes too soon after others.
        """
        name = printable(Path(name).name)[-MAX_NAME:]
        ending = Path(name).suffix
        if not re.fullmatch(r"\.[A-Za-z0-9]{1,8}", ending):
            raise ValueError(f"{name}: bring a MusicXML, MIDI or audio file, and keep the ending of its name")
        now = time.monotonic()
        if len(self.taken) == MAX_UPLOADS_PER_MINUTE and now - self.taken[0] < 60:
            raise TooMany("too many files at once: wait a minute")
        self.taken.append(now)
        with self.new_folder() as folder:
            path = folder / f"prompt{ending.lower()}"
            with open(path, "wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                    if file.tell() > MAX_FILE_BYTES:
                        raise TooLarge(f"{name} is too large: {MAX_FILE_BYTES >> 20} MB at most")
            return await self.look(Entry(folder.name, path, name), width)

    async def look(self, entry: Entry, width: int) -> dict[str, Any]:
        """Read a file in a process of its own, and keep it where it can be read.

        Args:
            width: pixels of an engraved page.

        Returns:
            `id`, `name` and what `web.preview.look` says.

        Raises:
            ValueError: it cannot be read, or takes too long, with the reason.
        """
        written = entry.path.with_suffix(".musicxml")  # of a take: engraved rather than its MIDI
        shown = written if written.is_file() else entry.path
        flags = [str(shown), "--out", str(self.folder / entry.id), "--width", str(min(2000, max(200, width)))]
        pipe = asyncio.subprocess.PIPE
        async with self.looking:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "web.preview", *flags, env=child_environment(), stdout=pipe, stderr=pipe
            )
            try:
                facts, reason = await asyncio.wait_for(child.communicate(), LOOK_S)
            except TimeoutError:
                raise ValueError(f"{entry.name} took longer than {LOOK_S:.0f} s to read: try a part of it") from None
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
        if child.returncode:
            words = entry.words(reason.decode(errors="replace").strip()).rpartition("\n")[2].removeprefix("sheet: ")
            crashed = f"{entry.name} cannot be read: is it whole, and what its name says?"
            raise ValueError(words if child.returncode == 2 and words else crashed)
        self.entries[entry.id] = entry
        return {"id": entry.id, "name": entry.name} | json.loads(facts.splitlines()[-1])
