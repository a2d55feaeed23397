"""Process: starts an untrusted program, and tells apart the ways in which it can end.

No shell, an environment of our choosing, nothing on stdin but what is given, a process group of its own; wall time,
memory and output are limited, those of its descendants with it, and whatever is left of them is killed at the end.
"""

import contextlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from conform.core.runtime import Limits
from conform.parity.drivers.descendants import Descendants, adopt_orphans, new_mark
from conform.parity.drivers.watch import Stop, Watch
from conform.parity.errors import RuntimeDriverError

__all__ = ["Ending", "Finished", "Started", "run_program", "start_program"]

Ending: TypeAlias = Literal["exited", "signalled"] | Stop


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended, and what it printed until then; `code` is the exit status, or the signal's number."""

    ending: Ending
    code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """A program that was started, and whatever it starts."""

    child: subprocess.Popen[bytes]
    descendants: Descendants

    def end(self) -> None:
        """Kill what is left of it, and wait until it is gone; nothing happens the second time."""
        pipes = [pipe for pipe in (self.child.stdin, self.child.stdout, self.child.stderr) if pipe is not None]
        if pipes[-1].closed:  # its process number may belong to another program by now
            return
        self.descendants.kill()
        for pipe in pipes:
            pipe.close()
        self.child.wait()

    def finished(self, watch: Watch, stopped: Stop | None) -> Finished:
        """How it ended, after `end`, and what was read of it until then."""
        code = self.child.wait()
        ending: Ending = stopped or ("signalled" if code < 0 else "exited")
        return Finished(ending, code if stopped else abs(code), watch.stdout, watch.stderr)


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
    with _file_of(stdin, arguments[0]) as given:
        program = start_program(arguments, environment, limits, given)
    watch = Watch(program.child, program.descendants, limits, deadline)
    try:
        stopped = watch.until_the_end()
    finally:
        program.end()
    return program.finished(watch, stopped)


def start_program(
    arguments: Sequence[str | Path], environment: Mapping[str, str], limits: Limits, stdin: IO[bytes] | int
) -> Started:
    """The program with its memory limited; `stdin` is an open file, or subprocess.PIPE.

    Raises RuntimeDriverError when it cannot be started.
    """
    adopt_orphans()
    mark = new_mark()
    child = _start(arguments, {**environment, **_places(limits.folder), **mark}, stdin, limits.folder)
    _limit_memory(child.pid, limits.memory)
    return Started(child, Descendants(child.pid, mark))


def _file_of(stdin: bytes, program: str | Path) -> IO[bytes]:
    """A file, not a pipe: a program that does not read it cannot make us wait."""
    try:
        given = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        given.write(stdin)
        given.seek(0)
    except OSError as error:
        raise RuntimeDriverError(f"{program}: cannot be started: {error}") from error
    return given


def _places(folder: Path | None) -> Mapping[str, str]:
    return {} if folder is None else {"HOME": str(folder), "TMPDIR": str(folder)}


def _start(
    arguments: Sequence[str | Path], environment: Mapping[str, str], stdin: IO[bytes] | int, folder: Path | None
) -> subprocess.Popen[bytes]:
    program = arguments[0]
    try:
        return subprocess.Popen(
            [os.fspath(argument) for argument in arguments],
            env=dict(environment),
            cwd=folder,
            stdin=stdin,
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
