"""Descendants: every process that a program started, also those that left its session; counted, and killed at its end.

Three ways lead to them. Children are listed by Linux under /proc. An orphan becomes a child of ours, because we ask for
that (prctl(2), PR_SET_CHILD_SUBREAPER), and is known by an environment variable that it inherited. What was seen once
stays known, whatever it does to its parent, session or environment.

Where there is no such /proc, as on macOS, only the program's own process group is reached.
"""

import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

__all__ = ["Descendants", "adopt_orphans", "new_mark"]

_PR_SET_CHILD_SUBREAPER = 36
_MARK = "CONFORM_RUN"
_PROC = Path("/proc")
# A program that forks while it is being killed is followed for this long.
_KILL_SECONDS = 5.0


@functools.cache
def adopt_orphans() -> bool:
    """Ask that orphaned descendants become children of this process; False where the system cannot do that."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def new_mark() -> Mapping[str, str]:
    """One environment variable, unlike that of any other program."""
    return {_MARK: uuid4().hex}


class Descendants:
    """The processes of one program: its own, and all that it started; `mark` is in its environment."""

    def __init__(self, pid: int, mark: Mapping[str, str]) -> None:
        self._pid = pid
        self._mark = f"{_MARK}={mark[_MARK]}".encode()
        self._seen: dict[int, str] = {}

    def resident_bytes(self) -> int:
        """Memory in use by all of them: what is theirs alone is added up, what they share is counted once."""
        sizes = [_resident(pid) for pid in self._living()]
        return sum(own for own, _ in sizes) + max((shared for _, shared in sizes), default=0)

    def kill(self) -> None:
        """SIGKILL to each, until none is left; orphans are reaped, the program itself is not."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        while (living := self._living()) and time.monotonic() < deadline:
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.001)
        self._reap()

    def _living(self) -> list[int]:
        """Every process of the program that has not ended."""
        waiting = [self._pid, *self._seen, *self._orphans()]
        found: dict[int, str] = {}
        while waiting:
            pid = waiting.pop()
            born, state = _birth_and_state(pid)
            # A number is given anew once its process was reaped.
            if pid in found or not born or self._seen.get(pid, born) != born:
                continue
            found[pid] = born
            if state in "ZX":
                continue
            waiting += _children(pid)
        self._seen |= found
        return [pid for pid in found if _birth_and_state(pid)[1] not in ("", "Z", "X")]

    def _orphans(self) -> Iterator[int]:
        for pid in _children(os.getpid()):
            with contextlib.suppress(OSError):
                if self._mark in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                    yield pid

    def _reap(self) -> None:
        ours = set(_children(os.getpid()))
        for pid in ours & self._seen.keys() - {self._pid}:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _birth_and_state(pid: int) -> tuple[str, str]:
    """When the process began, in the kernel's ticks, and its state; empty where there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[19], fields[0]


def _resident(pid: int) -> tuple[int, int]:
    """Anonymous and shared memory in bytes; 0 where the system does not tell. Mapped files are not counted."""
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, 0
    sizes = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")}
    return int(sizes.get("RssAnon", 0)) * 1024, int(sizes.get("RssShmem", 0)) * 1024
