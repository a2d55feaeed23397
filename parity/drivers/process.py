"""Process: starts an untrusted program, and tells apart the ways in which it can end.

No shell, an environment of our choosing, nothing on stdin but what is given, a process group of its own; wall time,
memory and output are limited, those of its descendants with it, and whatever is left of them is killed at the end.
"""

import contextlib
import os
import resource
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from conform.core.runtime import Limits
from conform.parity.drivers.descendants import Descendants, adopt_orphans, new_mark
from conform.parity.errors import RuntimeDriverError

__all__ = ["Ending", "Finished", "run_program"]

Ending: TypeAlias = Literal["exited", "signalled", "timed out", "too much output", "too much memory"]

_CHUNK = 1 << 16
_POLL_SECONDS = 0.05
# A grandchild may hold the pipes open after the program has ended; it is given no more time than this.
_GRACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended, and what it printed until then; `code` is the exit status, or the signal's number."""

    ending: Ending
    code: int
    stdout: bytes
    stderr: bytes


def run_program(
    arguments: Sequence[str | Path],
    environment: Mapping[str, str],
    limits: Limits,
    stdin: bytes = b"",
) -> Finished:
    """Run it to its end or to its limits; `stdin` is all that it can read there.

    Raises RuntimeDriverError when it cannot be started.
    """
    deadline = time.monotonic() + limits.seconds
    adopt_orphans()
    mark = new_mark()
    child = _start(arguments, {**environment, **_places(limits.folder), **mark}, stdin, limits.folder)
    descendants = Descendants(child.pid, mark)
    try:
        _limit_memory(child.pid, limits.memory)
        stdout, stderr, stopped = _Watch(child, descendants, limits, deadline).until_the_end()
    finally:
        _end(child, descendants)
    code = child.wait()
    if stopped is not None:
        return Finished(stopped, code, stdout, stderr)
    return Finished("signalled" if code < 0 else "exited", abs(code), stdout, stderr)


def _places(folder: Path | None) -> Mapping[str, str]:
    return {} if folder is None else {"HOME": str(folder), "TMPDIR": str(folder)}


def _start(
    arguments: Sequence[str | Path], environment: Mapping[str, str], stdin: bytes, folder: Path | None
) -> subprocess.Popen[bytes]:
    program = arguments[0]
    try:
        # A file, not a pipe: a program that does not read it cannot make us wait.
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            return subprocess.Popen(
                [os.fspath(argument) for argument in arguments],
                env=dict(environment),
                cwd=folder,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
    except FileNotFoundError as error:
        raise RuntimeDriverError(f"{program}: no such program, or the interpreter that it names is missing") from error
    except PermissionError as error:
        raise RuntimeDriverError(f"{program}: not executable; chmod +x it, or give the path of the binary") from error
    except (OSError, ValueError) as error:
        raise RuntimeDriverError(f"{program}: cannot be started: {error}") from error


def _limit_memory(pid: int, memory: int) -> None:
    # RLIMIT_AS would count the address space that Go reserves and never touches; RLIMIT_DATA counts what is writable.
    # A limit set from outside needs no code between fork and exec. Where prlimit is missing, the watch alone remains.
    if hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _end(child: subprocess.Popen[bytes], descendants: Descendants) -> None:
    descendants.kill()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


class _Watch:
    """Reads both pipes until they close, a limit is passed, or the program has been gone for a moment."""

    def __init__(
        self, child: subprocess.Popen[bytes], descendants: Descendants, limits: Limits, deadline: float
    ) -> None:
        self._child = child
        self._descendants = descendants
        self._looked = 0.0
        self._limits = limits
        self._deadline = deadline
        self._gone_since: float | None = None
        self._read: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def until_the_end(self) -> tuple[bytes, bytes, Ending | None]:
        stopped = self._follow()
        return bytes(self._read["stdout"]), bytes(self._read["stderr"]), stopped

    def _follow(self) -> Ending | None:
        with selectors.DefaultSelector() as selector:
            for name in self._read:
                selector.register(getattr(self._child, name), selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select(_POLL_SECONDS):
                    if not self._take(key.fileobj, key.data):  # type: ignore[arg-type]  # registered as pipes
                        selector.unregister(key.fileobj)
                if (ending := self._limit_passed()) is not None:
                    return ending
                if self._gone():
                    return None
        return self._wait_for_exit()

    def _take(self, pipe: IO[bytes], name: str) -> bool:
        chunk = os.read(pipe.fileno(), _CHUNK)
        self._read[name] += chunk
        return bool(chunk)

    def _limit_passed(self) -> Ending | None:
        if sum(map(len, self._read.values())) > self._limits.output:
            return "too much output"
        if time.monotonic() > self._deadline:
            return "timed out"
        return "too much memory" if self._memory_passed() else None

    def _memory_passed(self) -> bool:
        # A program that prints without end wakes us more often than its processes need counting.
        now = time.monotonic()
        if now - self._looked < _POLL_SECONDS:
            return False
        self._looked = now
        return self._descendants.resident_bytes() > self._limits.memory

    def _gone(self) -> bool:
        if self._child.poll() is None:
            return False
        self._gone_since = self._gone_since or time.monotonic()
        return time.monotonic() - self._gone_since > _GRACE_SECONDS

    def _wait_for_exit(self) -> Ending | None:
        # Both pipes are closed, but a program may live on without them.
        try:
            self._child.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return "timed out"
        return None
