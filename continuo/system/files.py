"""Files that are whole or absent: written under a temporary name, synced, renamed; and by one process at a time."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from continuo.system.text import suggestion


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path on the disk of `path`; on success it is synced and renamed to `path`, on failure removed.

    It lies in a hidden folder of its own beside `path`, with whatever else its writer makes there: safetensors, for
    one, writes under a name that it thinks of itself. A reader of `path` sees the old file or the new one, never a
    part. Raises OSError as the file system does, about `path`.
    """
    folder, prefix = None, f".{path.name[:100]}."
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=path.suffix))
        temporary = folder / path.name
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
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


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Keep `path` for this process; a lock lies beside it meanwhile. That of a process that was killed does not count.

    Raises:
        ValueError: another process has it; `refusal` says what to do.
    """
    lock = _lock_of(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(refusal) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            Path(lock.lock_file).unlink()  # while it is held: who opened it before looks whether it is still there
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process keeps `path` for itself."""
    lock = _lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` left behind when they were killed."""
    for leftover in path.parent.glob(f".{glob.escape(path.name[:100])}.????????{path.suffix}"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse, before any heavy work, an output that cannot be written.

    Raises:
        ValueError: `path` exists and `force` is false, is a folder, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    if path.exists() and not force:
        raise ValueError(f"{path} exists already: choose another name, or give --force to overwrite it")
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"{path} cannot be: {path.parent} is a file, not a folder")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: create it, or choose another place")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to the folder {path.parent} ({error.strerror}): choose another place") from None


def check_space(path: Path, size_bytes: float, advice: str) -> None:
    """Refuse, before any heavy work, a `path` whose disk cannot hold what it would take.

    Raises:
        ValueError: so many bytes are not free there; `advice` says what else to do than to free some space.
    """
    if size_bytes > (free := shutil.disk_usage(path.parent).free):
        needed, there = human_size(size_bytes), human_size(free)
        raise ValueError(f"cannot write {path}: {needed} are needed, {there} are free: free some space, or {advice}")


def suggest_path(path: Path) -> str:
    """`; did you mean 'x'?` where a file beside the missing `path` is called nearly so, else nothing."""
    try:
        return suggestion(
            path.name, [other.name for other in path.parent.iterdir() if other.is_file() or not path.suffix]
        )
    except OSError:
        return ""


def human_size(size_bytes: float) -> str:
    """A size for people.

    >>> human_size(345_600_000)
    '345.6 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
