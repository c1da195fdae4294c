"""Files that are whole or absent: written under a temporary name, synced, renamed."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from continuo.command import suggestion


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed.

    A reader of `path` sees the old file or the new one, never a part. Raises OSError as the file system does.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that writers of `path` left behind when they were killed."""
    for leftover in path.parent.glob(f".{glob.escape(path.name[:100])}.*{path.suffix}"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
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
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: create it, or choose another place")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to the folder {path.parent} ({error.strerror}): choose another place") from None


def near(path: Path) -> str:
    """`; did you mean 'x'?` where a file beside the missing `path` is called nearly so, else nothing."""
    try:
        return suggestion(path.name, [other.name for other in path.parent.iterdir()])
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
