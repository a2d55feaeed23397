"""Lock: one process at a time in a folder or a file, let go when the process ends, however it does."""

import os
import time
from pathlib import Path

from conform.core.errors import ConformError

__all__ = ["FolderLock", "holds_lock", "try_lock"]

_POLL_SECONDS = 0.1


class FolderLock:
    """Keeps other processes that ask for it out of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """True when the folder is this process's, False when another one still has it after `patience` seconds.

        Raises OSError when there is no such folder.
        """
        descriptor = os.open(self._folder, os.O_RDONLY)
        deadline = time.monotonic() + patience
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                os.close(descriptor)
                return False
            time.sleep(_POLL_SECONDS)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others in; nothing happens where nothing is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def try_lock(descriptor: int) -> bool:
    """True when what is open there is now locked until it is closed, False when another process holds it.

    On file systems that have no locks, nothing is kept from anyone and the answer is True.
    """
    return _lock(descriptor, without_locks=True)


def holds_lock(descriptor: int) -> bool:
    """True when what is open there is now locked for certain: False also on file systems that have no locks."""
    return _lock(descriptor, without_locks=False)


def _lock(descriptor: int, *, without_locks: bool) -> bool:
    try:
        import fcntl
    except ImportError as error:
        raise ConformError("this platform has no file locks; conform runs on Linux and macOS") from error

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every network file system has locks
        return without_locks
    return True
