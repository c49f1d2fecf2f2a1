"""Files that are either whole or absent: written beside their place, flushed, synced, and renamed into it."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdscope.errors import KDScopeError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`, on any error remove it.

    A full disk becomes a one-line KDScopeError, and whatever stood at `path` before still stands there.

    >>> with replacing("/tmp/kdscope-doctest.txt") as draft:
    ...     _ = draft.write_text("whole")
    >>> Path("/tmp/kdscope-doctest.txt").read_text()
    'whole'
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.chmod(0o666 & ~_umask())  # some writers make files that nobody else may read
        with open(draft, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def disk_error(error: OSError, path: Path) -> KDScopeError:
    """The one-line form of an operating system's error at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
        free = shutil.disk_usage(folder).free
        return KDScopeError(f"the disk is full: {path} was not written ({free / 2**20:.0f} MiB are free there)")
    return KDScopeError(f"{path}: {error.strerror or error}")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, allow_nan=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a file that is missing or is not JSON is a one-line KDScopeError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise KDScopeError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise KDScopeError(f"{path} is not a JSON file: {error}") from error


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of `value` as canonical JSON: the same for the same content in any order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
