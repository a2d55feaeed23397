"""Faults: this process's writes, renames, syncs, truncations and locks, counted; one of them fails, or is its last.

It needs nothing of the operating system: the functions of `os`, `fcntl` and `io` that change files are wrapped.
Only what happens inside one folder counts, so that caches elsewhere change no number.
"""

import builtins
import errno
import fcntl
import io
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EFFECTS", "TORN", "Fault", "Faults"]

_ERRORS = {"no space": errno.ENOSPC, "an I/O error": errno.EIO}
TORN = ("half, then killed", "half, then no space")
"""What happens to writes only."""
EFFECTS = (*_ERRORS, "killed before", "killed after", *TORN)
_NEVER = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the operation of that number; the first is 1, and at 0 nothing ever happens."""

    number: int = _NEVER
    effect: str = "killed before"


class Faults:
    """From `install` on, `operations` are those that were begun in the folder, such as `replace run.json`."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.operations: list[str] = []
        self._folder, self._fault = str(folder.resolve()) + os.sep, fault
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()
        self._full = False
        self._open, self._os_open = io.open, os.open

    def install(self) -> None:
        """Wrap the functions; there is no way back in this process."""
        for name in ("replace", "rename"):
            self._wrap(os, name, lambda source, target, *_: self._absolute(target))
        for name in ("fsync", "ftruncate"):
            self._wrap(os, name, lambda descriptor, *_: self._path_of(descriptor))
        self._wrap(os, "truncate", lambda path, *_: self._absolute(path))
        self._wrap(fcntl, "flock", lambda descriptor, *_: self._path_of(descriptor))
        for name in ("write", "pwrite"):
            self._wrap(os, name, lambda descriptor, *_: self._path_of(descriptor), data=1)
        os.open = self._opened
        io.open = builtins.open = self._opened_file  # type: ignore[assignment]  # one signature for all of its overloads

    def wrap_writer(self, module: Any, name: str) -> None:
        """Count a function `name(content, path, …)` that writes a whole file without the help of Python."""
        write = getattr(module, name)

        def wrapped(content: Any, path: Any, *rest: Any, **options: Any) -> Any:
            def half() -> None:
                write(content, path, *rest, **options)
                with self._open(path, "r+b") as file:
                    file.truncate(os.path.getsize(path) // 2)
                if self._fault.effect == "half, then no space":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return self.strike("write", self._absolute(path), lambda: write(content, path, *rest, **options), half)

        setattr(module, name, wrapped)

    def strike(self, operation: str, path: str, do: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do it, unless this is the operation that the fault is for; `half` does it in part."""
        if not path.startswith(self._folder):
            return do()
        with self._lock:
            self.operations.append(f"{operation} {path.removeprefix(self._folder)}")
            struck = len(self.operations) == self._fault.number
        effect = self._fault.effect
        if self._full and half is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not struck:
            return do()
        if effect in _ERRORS:
            raise OSError(_ERRORS[effect], os.strerror(_ERRORS[effect]))
        if effect == "killed after":
            do()
        written = half() if effect in TORN and half is not None else None
        if effect == "half, then no space":
            # As a disk does it: this write is a short one, and every one that follows fails.
            self._full = True
            return written
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process goes on")

    def path_of(self, descriptor: int) -> str:
        """The file that was opened under this number, "" for one that nobody has told of."""
        return self._paths.get(descriptor, "")

    def _path_of(self, descriptor: Any) -> str:
        return self.path_of(descriptor if isinstance(descriptor, int) else descriptor.fileno())

    def _absolute(self, path: Any) -> str:
        return os.path.abspath(os.fsdecode(path))

    def _wrap(self, module: Any, name: str, path_of: Callable[..., str], data: int | None = None) -> None:
        function = getattr(module, name)

        def wrapped(*given: Any, **options: Any) -> Any:
            def half() -> Any:
                assert data is not None
                content = memoryview(given[data])
                return function(*given[:data], content[: (content.nbytes + 1) // 2], *given[data + 1 :])

            return self.strike(
                name, path_of(*given), lambda: function(*given, **options), None if data is None else half
            )

        setattr(module, name, wrapped)

    def _opened(self, path: Any, *rest: Any, **options: Any) -> int:
        descriptor = self._os_open(path, *rest, **options)
        self._paths[descriptor] = self._absolute(path)
        return descriptor

    def _opened_file(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        path = self.path_of(file) if isinstance(file, int) else self._absolute(file)
        if set(mode).isdisjoint("wax+") or not path.startswith(self._folder):
            return self._open(file, mode, buffering, *rest, **options)
        names = ("encoding", "errors", "newline", "closefd", "opener")
        given = {**dict(zip(names, rest, strict=False)), **options}
        kept = {key: given.pop(key) for key in ("closefd", "opener") if key in given}
        raw = _File(self, path, file, mode.replace("b", "").replace("t", ""), **kept)
        self._paths[raw.fileno()] = path
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **given)


class _File(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, faults: Faults, path: str, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._faults, self._path = faults, path

    def write(self, content: Any, /) -> int:
        """As a file's."""
        view = memoryview(content).cast("B")
        write = super().write
        written: int = self._faults.strike(
            "write", self._path, lambda: write(view), lambda: write(view[: (view.nbytes + 1) // 2])
        )
        return written

    def truncate(self, size: int | None = None, /) -> int:
        """As a file's."""
        truncate = super().truncate
        length: int = self._faults.strike("truncate", self._path, lambda: truncate(size))
        return length
