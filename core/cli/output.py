"""Output: the files that a command writes for its user, complete or not at all, and never over something else."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from conform.core.errors import ConformError
from conform.core.files.atomic import write_atomically

__all__ = ["check_replaceable", "divert_stdout", "reserved_stdout", "write_json", "write_text_atomically"]

# Where a report goes while stdout is reserved for it.
_reserved: TextIO | None = None


@contextmanager
def reserved_stdout() -> Iterator[None]:
    """Until the end, only write_json reaches stdout; what anything else prints, also in C, goes to stderr."""
    global _reserved  # noqa: PLW0603  # a process has one stdout
    stdout = sys.stdout
    if stdout is None or _reserved is not None:
        yield
        return
    own = _descriptor(stdout)
    if own is None:
        _reserved = stdout
    else:
        stdout.flush()
        _reserved = open(os.dup(own), "w", encoding=stdout.encoding, errors=stdout.errors)  # noqa: SIM115  # see finally
        os.dup2(2, own)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout, report, _reserved = stdout, _reserved, None
        if own is not None:
            stdout.flush()  # what was printed to it meanwhile belongs to stderr
            os.dup2(report.fileno(), own)
            report.close()


def write_json(report: object, path: str | None) -> bool:
    """Write the report where --json said; True when that was stdout, so that no table should follow."""
    if path is None:
        return False
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        stream = _reserved or sys.stdout
        if stream is not None:  # it is None where the caller closed it
            stream.write(text)
            stream.flush()
        return True
    write_text_atomically(Path(path), text)
    return False


def divert_stdout() -> None:
    """The output is complete: what is printed while the process ends goes to stderr."""
    if sys.stdout is not None and _descriptor(sys.stdout):
        os.dup2(2, 1)


def _descriptor(stream: TextIO) -> int | None:
    """1 where the stream is the process's stdout and there is a stderr; None for what a test put in its place."""
    try:
        os.fstat(2)
        return 1 if stream.fileno() == 1 else None
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return None


def write_text_atomically(path: Path, text: str) -> None:
    """The file appears under its name complete or not at all.

    Raises ConformError naming the path when it cannot be written.
    """
    try:
        # The name of a file need not be UTF-8; what it holds instead has the same escape in JSON and in Python.
        write_atomically(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise ConformError(f"{path}: cannot be written: {error.strerror}") from error


def check_replaceable(path: Path, start: str) -> None:
    """Pass when nothing stands there, or a file that begins like the one to be written.

    Raises ConformError for any other: a mistyped path must not cost a file.
    """
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(start.encode())) in (b"", start.encode()):
                return
    raise ConformError(f"{path}: exists and is something else; it will not be overwritten: name another file")
