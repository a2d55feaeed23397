"""Atomic write: a file that is there as a whole or not at all, even when the power goes."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conform.contract.bounded import irregular
from conform.core.files.lock import holds_lock, try_lock

__all__ = ["create_new", "refuse_irregular", "staged", "sync_path", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """The file is replaced as a whole, and file and name are on the disk when this returns.

    Raises OSError, leaving what was there before; only when the folder cannot be synced does the new file stand there.
    """
    with staged(path, content):
        pass


@contextmanager
def staged(path: Path, content: bytes) -> Iterator[Path]:
    """A file of that content under a name of its own, which is `path`'s when the block ends, and gone if it raises.

    Raises OSError, also when a pipe, socket or device stands under `path`.
    """
    refuse_irregular(path)
    _sweep(path)
    part, descriptor = _create_locked(path)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            yield part
            os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def create_new(path: Path, flags: int) -> int:
    """The descriptor of a new file; what stood under that name is removed, and never written through if it was a link.

    Raises OSError, also when a pipe, socket or device stands there.
    """
    refuse_irregular(path)
    path.unlink(missing_ok=True)
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def refuse_irregular(path: Path) -> None:
    """Raise OSError when a pipe, socket or device stands under that name, itself or by a link."""
    try:
        mode = path.stat().st_mode
    except OSError:  # whatever it is, it will be said when the file is written
        return
    if (kind := irregular(mode)) and not stat.S_ISDIR(mode):
        raise OSError(errno.EEXIST, f"{kind} stands in the place of this file; remove it, or choose another name")


def sync_path(path: Path) -> None:
    """Return when it is on the disk: a file's content, or the names that a folder holds. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_locked(path: Path) -> tuple[Path, int]:
    """A new file beside `path` that no other writer knows, locked as long as it is open."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        descriptor = create_new(part, os.O_WRONLY)
        # Between opening and locking, somebody may have swept it away.
        if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            return part, descriptor
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove what killed writers of this file left: their locks ended with them."""
    start, end = f".{path.name}.", ".part"
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(start) and entry.name.endswith(end) and entry.is_file(follow_symlinks=False):
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if holds_lock(descriptor):
                part.unlink()
        finally:
            os.close(descriptor)
