"""Files that the studio keeps: uploads, examples in use and takes, each in a folder of its own."""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.exceptions import HTTPException

from continuo.system.paths import child_environment
from continuo.system.text import printable

MAX_FILE_BYTES = 200 << 20  # of one upload
MAX_TOTAL_BYTES = 4 << 30  # of all files together
MAX_READ_S = 60.0  # for the preview of a file
MAX_NAME_LENGTH = 80
SERVED_SUFFIXES = {".wav", ".mid", ".musicxml", ".svg"}


@dataclass(frozen=True)
class StoredFile:
    """A piece of music that can be played and continued."""

    id: str  # also the name of its folder
    path: Path  # the file that a model continues
    name: str  # as the page shows it

    def public(self, text: str) -> str:
        """Return `text` with this file's path replaced by its name."""
        return text.replace(str(self.path), self.name).replace(self.path.name, self.name)


class FileStore:
    """Music files by their identifiers, kept below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, StoredFile] = {}

    def get(self, file_id: str) -> StoredFile:
        """Return a file by its identifier; HTTPException: there is no such file (404)."""
        if file_id not in self.files:
            raise HTTPException(404, "the studio does not have this file any more: was it restarted?")
        return self.files[file_id]

    def path(self, file_id: str, name: str) -> Path:
        """Return the path of a sound, score or engraved page in a file's folder; HTTPException: there is none (404)."""
        path = self.folder / self.get(file_id).id / Path(name).name
        if path.suffix not in SERVED_SUFFIXES or not path.is_file():
            raise HTTPException(404, "there is no such file")
        return path

    @contextlib.contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Make a folder for a new file, and remove it if the body fails; ValueError: there is no room left."""
        if sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) > MAX_TOTAL_BYTES:
            raise ValueError("the studio has no room for more files: download what you want to keep, and restart it")
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def save_upload(self, name: str, chunks: AsyncIterator[bytes], width: int) -> dict[str, object]:
        """Store an upload and return its `preview`; ValueError: it is unsuitable; HTTPException 413: it is too big."""
        name = printable(Path(name).name)[-MAX_NAME_LENGTH:]
        suffix = Path(name).suffix
        if not re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix):
            raise ValueError(f"{name}: choose a MusicXML, MIDI or audio file whose name ends like song.mid")
        with self.new_folder() as folder:
            path = folder / f"prompt{suffix.lower()}"
            with open(path, "wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                    if file.tell() > MAX_FILE_BYTES:
                        raise HTTPException(413, f"{name} is too large: {MAX_FILE_BYTES >> 20} MB at most")
            return await self.preview(StoredFile(folder.name, path, name), width)

    async def preview(self, file: StoredFile, width: int) -> dict[str, object]:
        """Read a file in a child process, add it to the store, and return `id`, `name` and a `web.preview.Preview`.

        `width` is that of an engraved page in pixels. ValueError: the file cannot be read in time, with the reason.
        """
        written = file.path.with_suffix(".musicxml")  # of a take: the page shows it instead of the MIDI file
        shown = written if written.is_file() else file.path
        command = [sys.executable, "-m", "web.preview", str(shown), str(self.folder / file.id), str(width)]
        run = partial(subprocess.run, capture_output=True, text=True, errors="replace", timeout=MAX_READ_S)
        try:
            child = await asyncio.to_thread(run, command, env=child_environment())
        except subprocess.TimeoutExpired:
            raise ValueError(f"{file.name} took longer than {MAX_READ_S:.0f} s to read: try a part of it") from None
        if child.returncode:
            last_line = child.stderr.strip().rpartition("\n")[2]
            reason = file.public(last_line.partition(": ")[2]) if child.returncode == 2 else ""
            raise ValueError(reason or f"{file.name} cannot be read: is it complete, and of the kind its name says?")
        self.files[file.id] = file
        return {"id": file.id, "name": file.name} | json.loads(child.stdout.splitlines()[-1])
