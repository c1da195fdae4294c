"""The cache on disk: decoded audio, performed scores and codes, keyed by content; an entry is whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuo.system.files import atomic_write
from continuo.system.workers import check_cancelled

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
MAX_WRITE_S = 3600.0  # an unfinished entry that is older was left by a killed process


def folder() -> Path:
    """Return the folder of the cache: CONTINUO_CACHE, or else the platform's cache folder."""
    if chosen := os.environ.get("CONTINUO_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "continuo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "continuo"


def key_of_values(*values: object) -> str:
    """Return a key made from values with a stable `repr`."""
    return key_of_bytes(b"", *values)


def key_of(path: Path, *parameters: object) -> str:
    """Return a key made from the content of a file and from everything else that the entry depends on."""
    digest = hashlib.blake2b(repr((VERSION, *parameters)).encode(), digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            check_cancelled()
            digest.update(block)
    return digest.hexdigest()


def key_of_bytes(data: bytes, *parameters: object) -> str:
    """Return the key that `key_of` returns for a file of this content."""
    return hashlib.blake2b(repr((VERSION, *parameters)).encode() + data, digest_size=20).hexdigest()


def entry(key: str, ending: str) -> Path:
    """Return the path of an entry, and create its folder."""
    path = folder() / key[:2] / f"{key}{ending}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from None
    return path


def _unwritable(error: OSError) -> OSError:
    reason = f"the cache cannot be written ({error.strerror}): set CONTINUO_CACHE to another folder"
    return OSError(error.errno, reason, str(folder()))


@contextlib.contextmanager
def _writing(key: str, ending: str) -> Iterator[Path]:
    path = entry(key, ending)
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        if error.filename == str(path):
            raise _unwritable(error) from None
        raise


def put_audio(key: str, blocks: Iterable[np.ndarray], describe: Any) -> dict[str, Any]:
    """Store blocks of float32 samples, then the facts `describe(path)` about them, which complete the entry."""
    import numpy as np  # slow; scores are read without it

    with _writing(key, ".f32") as temporary:
        with open(temporary, "wb") as file:
            for block in blocks:
                check_cancelled()
                file.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
        facts: dict[str, Any] = describe(temporary) | {"bytes": temporary.stat().st_size}
    put_json(key, facts)
    return facts


def get_audio(key: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the path of stored samples and their facts, or None if the entry is missing or damaged."""
    facts, audio = get_json(key), entry(key, ".f32")
    if isinstance(facts, dict) and audio.is_file() and audio.stat().st_size == facts.get("bytes"):
        return audio, facts
    return None


def put_json(key: str, content: object) -> None:
    """Store a value of plain JSON types."""
    with _writing(key, ".json") as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def get_json(key: str) -> Any:
    """Return the stored value, or None if it is missing or damaged."""
    try:
        return json.loads(entry(key, ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def put_array(key: str, array: np.ndarray) -> None:
    """Store an array."""
    import numpy as np

    with _writing(key, ".npy") as temporary:
        np.save(temporary, array)


def get_array(key: str) -> np.ndarray | None:
    """Return the stored array, or None if it is missing or damaged."""
    import numpy as np

    try:
        return np.asarray(np.load(entry(key, ".npy"), allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def size_bytes() -> int:
    """Return the size of the whole cache in bytes."""
    return sum(status.st_size for _, status in _files())


def clear() -> int:
    """Remove every entry except those that are being written; return the number of bytes freed."""
    freed = 0
    for path, status in _files():
        if not path.parent.name.startswith(".") or abs(time.time() - status.st_mtime) > MAX_WRITE_S:
            path.unlink(missing_ok=True)
            freed += status.st_size
    return freed


def _files() -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every file in the cache; other processes may add and remove files meanwhile."""
    for parent, _, names in os.walk(folder()):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()
