"""Partial file: a file under construction, which appears under its name complete or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from conform.core.errors import ExportError
from conform.core.files.atomic import create_new, refuse_irregular, sync_path
from conform.core.files.lock import try_lock
from conform.core.quantizer import Packed

__all__ = ["PartialFile"]


class PartialFile:
    """A file under construction, `.NAME.partial` in the folder of `target`; only `publish` gives it its name.

    As a context manager it removes what was not published; one that is `resumable` stays after an interrupt, and is
    found again by the next one of that size. Writes go to absolute offsets, so any order will do, and threads need no
    lock. Every failure of the disk is an ExportError of one sentence.
    """

    def __init__(self, target: Path, size: int, *, resumable: bool = False) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.partial")
        self.found = False
        """True when what an interrupted export left behind was taken up."""
        self._size = size
        self._resumable = resumable
        self._fd = -1
        self._published = False

    def __enter__(self) -> "PartialFile":
        with _disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            refuse_irregular(self.target)
            refuse_irregular(self.path)
            # A link under that name would lead the writes to another file.
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            self._lock()
            if os.fstat(self._fd).st_nlink > 1:
                self._leave_hard_link()
            try:
                self.found = self._resumable and os.fstat(self._fd).st_size == self._size
                if not self.found:
                    self.clear()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        if self._resumable and interrupted:
            self._close()
        elif not self._published:
            self._discard()

    def write(self, offset: int, content: bytes | Packed) -> None:
        """Put bytes at an absolute offset."""
        view = memoryview(content.data if not isinstance(content, bytes) else content)
        with _disk_errors(self.target):
            while view.nbytes:
                written = os.pwrite(self._fd, view, offset)
                view = view[written:]
                offset += written

    def clear(self) -> None:
        """Make every byte zero.

        Raises ExportError when the disk has no room for the file.
        """
        with _disk_errors(self.target):
            os.ftruncate(self._fd, 0)
            free = shutil.disk_usage(self.target.parent).free
            if free < self._size:
                raise ExportError(
                    f"{self.target}: needs {self._size:,} bytes, but only {free:,} are free in {self.target.parent}"
                )
            os.ftruncate(self._fd, self._size)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from an absolute offset; fewer where the file ends."""
        with _disk_errors(self.target):
            return os.pread(self._fd, size, offset)

    def sync(self) -> None:
        """Return when the bytes are on the disk."""
        with _disk_errors(self.target):
            os.fsync(self._fd)

    def publish(self) -> None:
        """Give the file its name, replacing an older one in the same instant."""
        with _disk_errors(self.target):
            os.replace(self.path, self.target)
            self._published = True
            self._close()
            sync_path(self.target.parent)

    def _lock(self) -> None:
        # What a killed export left behind is overwritten; what another one is writing is not.
        # Between opening and locking, the other one may have published what was opened.
        if not try_lock(self._fd) or not self._is_under_its_name():
            self._close()
            raise ExportError(f"{self.target}: another export is writing this file")

    def _leave_hard_link(self) -> None:
        # A backup that was made of links would be written through.
        self._close()
        self._fd = create_new(self.path, os.O_RDWR)
        self._lock()

    def _is_under_its_name(self) -> bool:
        return self.path.exists() and os.path.samestat(os.fstat(self._fd), self.path.stat())

    def _discard(self) -> None:
        # Removed while the lock is held: afterwards the name may be another export's.
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "; free some space, or choose another place with -o" if error.errno == errno.ENOSPC else ""
        raise ExportError(f"{target}: cannot be written: {error.strerror}{advice}") from error
