"""Atomic write: a file that is there as a whole or not at all, even when the power goes."""

import os
from pathlib import Path

__all__ = ["sync_path", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """The file is replaced as a whole, and file and name are on the disk when this returns.

    Raises OSError, leaving what was there before; only when the folder cannot be synced does the new file stand there.
    """
    # The same name every time: what a killed process left under it is overwritten, not collected.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Return when it is on the disk: a file's content, or the names that a folder holds. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
