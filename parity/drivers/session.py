"""Session: one process that answers many questions, each a line on its stdin and a line on its stdout."""

import contextlib
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from conform.core.runtime import Limits, RuntimeFault
from conform.parity.drivers.faults import raise_fault
from conform.parity.drivers.process import Started, start_program
from conform.parity.drivers.watch import Watch

__all__ = ["Session"]

# How long a program may take to end by itself once its stdin is closed.
_FAREWELL_SECONDS = 1.0


class Session:
    """A program that is running; it ends with this object at the latest. One thread at a time may ask.

    Raises RuntimeDriverError when it cannot be started.
    """

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str], limits: Limits) -> None:
        self._limits = limits
        self._program = start_program(arguments, environment, limits, subprocess.PIPE)
        self._end = weakref.finalize(self, _end, self._program)

    def ask(self, line: bytes) -> bytes:
        """The line that it answers with; the limits hold for each question.

        Raises RuntimeFault when it prints none, or anything behind it; the program has then been ended.
        """
        program, deadline = self._program, time.monotonic() + self._limits.seconds
        watch = Watch(program.child, program.descendants, self._limits, deadline, line)
        stopped = watch.until_a_line()
        answer, ended, behind = watch.stdout.partition(b"\n")
        if stopped is None and ended and not behind:
            return answer
        program.end()
        if ended and behind:
            raise RuntimeFault("answered wrongly", "it printed more than the one line that was asked for")
        finished = program.finished(watch, stopped)
        raise_fault(finished, self._limits)
        raise RuntimeFault("answered wrongly", "it ended with exit status 0 and did not answer")

    def close(self) -> None:
        """Let the program end, and end it where it does not."""
        self._end()


def _end(program: Started) -> None:
    if program.child.stdin is not None:
        program.child.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.child.wait(_FAREWELL_SECONDS)
    program.end()
