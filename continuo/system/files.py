"""Files that are whole or absent: temporary name, sync, rename; and locks between processes."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from continuo.system.text import suggestion

if TYPE_CHECKING:
    from filelock import FileLock


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success sync it and rename it to `path`, on failure remove it.

    It lies in a hidden folder of its own next to `path`, because some writers (safetensors) create files under names of
    their own. A reader of `path` never sees a part. An OSError of the file system names `path`.
    """
    folder, prefix = None, f".{path.name[:100]}."
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=path.suffix))
        temporary = folder / path.name
        yield temporary
        os.umask(mask := os.umask(0))  # the only way to read it
        os.chmod(temporary, 0o666 & ~mask)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        if error.strerror and (error.filename is None or prefix in str(error.filename)):
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed writers of `path` left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name[:100])}.????????{path.suffix}"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; ValueError if that cannot be done."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error})") from None


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock of `path`, which ends with its process; ValueError(`refusal`) if another process holds it."""
    from filelock import Timeout  # slow, and most writers need no lock

    lock = _lock_of(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(refusal) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            Path(lock.lock_file).unlink()  # removed while held, so that no other process can lock a file without a name
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of `path`."""
    from filelock import Timeout

    lock = _lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
        return False
    return True


def _lock_of(path: Path) -> FileLock:
    from filelock import FileLock

    return FileLock(path.with_name(f".{path.name}.lock"))


def check_writable(*paths: Path, force: bool) -> None:
    """Raise ValueError if a path exists (without `force`), is a folder, or its folder is missing or read-only."""
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the name of a file")
        if path.exists() and not force:
            raise ValueError(f"{path} exists already: choose another name, or give --force to overwrite it")
    for folder, path in {path.parent: path for path in reversed(paths)}.items():  # the first path of each folder
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{path} cannot be written: {folder} is a file, not a folder")
        if not folder.is_dir():
            raise ValueError(f"the folder {folder} does not exist: create it, or choose another one")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"cannot write to the folder {folder} ({error.strerror})"
            raise ValueError(f"{reason}: choose another folder") from None


def check_space(path: Path, size_bytes: float, advice: str) -> None:
    """Raise ValueError, with `advice` in addition to freeing space, if the disk of `path` has not `size_bytes` free."""
    from rich.filesize import decimal as human_size

    if size_bytes > (free := shutil.disk_usage(path.parent).free):
        needed, there = human_size(int(size_bytes)), human_size(free)
        raise ValueError(f"cannot write {path}: {needed} are needed, {there} are free: free some space, or {advice}")


def suggest_path(path: Path) -> str:
    """Return `; did you mean 'x'?` if a file next to the missing `path` has a similar name, else an empty string."""
    try:
        others = [other.name for other in path.parent.iterdir() if other.is_file() or not path.suffix]
    except OSError:
        return ""
    return suggestion(path.name, others, least=0.7)  # the same ending alone is no likeness


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
