"""Faults: what the end of a process says about a runtime: refused, crashed, timed out or answered wrongly."""

import os
import re
import signal
from pathlib import Path

from conform.core.runtime import FaultKind, Limits, RuntimeFault
from conform.parity.drivers.process import Finished
from conform.parity.errors import RuntimeDriverError

__all__ = ["raise_fault", "require_program"]

# Go exits with 2 for a usage error as well as for a panic, Python with 1 for a refusal as well as for an exception that
# nobody caught, such as MemoryError; only stderr tells them apart.
_CRASH = re.compile(
    rb"^(panic:|fatal error:|runtime: out of memory|unexpected fault address|SIG[A-Z]+:"
    rb"|Traceback \(most recent call last\):|thread '.*' panicked at )",
    re.MULTILINE,
)
_TRACEBACK = "Traceback (most recent call last):"


def require_program(program: Path) -> None:
    """Raises RuntimeDriverError unless there is a file that may be executed."""
    if not program.is_file():
        raise RuntimeDriverError(f"{program}: no such file; give the path of the runtime's binary")
    if not os.access(program, os.X_OK):
        raise RuntimeDriverError(f"{program}: not executable; chmod +x it, or give the path of the binary")


def raise_fault(finished: Finished, limits: Limits) -> None:
    """Raises RuntimeFault unless the process ended by itself with status 0."""
    said = _said(finished.stderr)
    if finished.ending == "timed out":
        raise RuntimeFault("timed out", f"no answer within {limits.seconds:g} s (--timeout)")
    if finished.ending == "too much output":
        raise RuntimeFault("answered wrongly", f"output too large: stopped at {limits.output} bytes")
    if finished.ending == "too much memory":
        raise RuntimeFault("crashed", f"killed at {limits.memory / 2**30:.3g} GiB of memory (--memory-limit)")
    if finished.ending == "signalled":
        raise RuntimeFault("crashed", f"ended by {_signal_name(finished.code)}{said}")
    if finished.code:
        raise RuntimeFault(_kind(finished), f"exit status {finished.code}{said}")


def _kind(finished: Finished) -> FaultKind:
    if _CRASH.search(finished.stderr):
        return "crashed"
    return "refused" if finished.code in {1, 2} else "answered wrongly"


def _said(stderr: bytes) -> str:
    """The first line of stderr that says something, without its time stamp; of a Python traceback the last."""
    lines = stderr.decode(errors="replace").splitlines()
    for line in reversed(lines) if _TRACEBACK in lines else lines:
        text = re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line).strip()
        if text and not text.startswith("drift_trace"):
            return ": " + "".join(c if c.isprintable() else "?" for c in text[:300])
    return ", nothing on stderr"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
