"""Watch: reads what a started program prints, until it ends, has printed a line, or a limit is passed."""

import os
import selectors
import subprocess
import time
from typing import Literal, TypeAlias

from conform.core.runtime import Limits
from conform.parity.drivers.descendants import Descendants

__all__ = ["Stop", "Watch"]

Stop: TypeAlias = Literal["timed out", "too much output", "too much memory"]
"""The limits that a program can pass."""

_CHUNK = 1 << 16
_POLL_SECONDS = 0.05
# A grandchild may hold the pipes open after the program has ended; it is given no more time than this.
_GRACE_SECONDS = 0.5


class Watch:
    """One run of a program, or one question that it is asked: `given` is written to its stdin, if that is a pipe."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        descendants: Descendants,
        limits: Limits,
        deadline: float,
        given: bytes = b"",
    ) -> None:
        self._child = child
        self._descendants = descendants
        self._limits = limits
        self._deadline = deadline
        self._given = memoryview(given)
        self._looked = 0.0
        self._gone_since: float | None = None
        self._line_seen = False
        self._read: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    @property
    def stdout(self) -> bytes:
        """All that was read from its stdout."""
        return bytes(self._read["stdout"])

    @property
    def stderr(self) -> bytes:
        """All that was read from its stderr."""
        return bytes(self._read["stderr"])

    def until_the_end(self) -> Stop | None:
        """The limit that it passed; None when it ended by itself."""
        return self._follow(one_line=False)

    def until_a_line(self) -> Stop | None:
        """The limit that it passed; None when its stdout holds a line, or it ended without one."""
        return self._follow(one_line=True)

    def _follow(self, *, one_line: bool) -> Stop | None:
        with selectors.DefaultSelector() as selector:
            self._register(selector)
            while selector.get_map():
                for key, _ in selector.select(_POLL_SECONDS):
                    if not self._serve(key):
                        selector.unregister(key.fileobj)
                if one_line and self._line_seen:
                    return None
                if (stop := self._limit_passed()) is not None:
                    return stop
                if self._gone():
                    return None
        return self._wait_for_exit()

    def _register(self, selector: selectors.BaseSelector) -> None:
        for name in self._read:
            selector.register(getattr(self._child, name), selectors.EVENT_READ, name)
        if self._given and self._child.stdin is not None:
            os.set_blocking(self._child.stdin.fileno(), False)
            selector.register(self._child.stdin, selectors.EVENT_WRITE)

    def _serve(self, key: selectors.SelectorKey) -> bool:
        """Read or write what the pipe takes; False when there is nothing more to do with it."""
        return self._give(key.fd) if key.events & selectors.EVENT_WRITE else self._take(key.fd, key.data)

    def _take(self, pipe: int, name: str) -> bool:
        chunk = os.read(pipe, _CHUNK)
        self._read[name] += chunk
        self._line_seen |= name == "stdout" and b"\n" in chunk
        return bool(chunk)

    def _give(self, pipe: int) -> bool:
        try:
            self._given = self._given[os.write(pipe, self._given[:_CHUNK]) :]
        except BrokenPipeError:  # it does not read; how it ends will show why
            return False
        return bool(self._given)

    def _limit_passed(self) -> Stop | None:
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

    def _wait_for_exit(self) -> Stop | None:
        # Both pipes are closed, but a program may live on without them.
        try:
            self._child.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return "timed out"
        return None
