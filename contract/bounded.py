"""Bounded reading: files that a stranger may have made, opened and read without hanging or filling the memory.

It stands in the lowest room because contracts are read through it as well as everything above them.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from conform.contract.errors import InputError

__all__ = ["irregular", "open_regular", "read_bounded", "require_regular"]

_PIECE = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def open_regular(path: Path, *, advice: str = "") -> Iterator[BufferedReader]:
    """The file, open for reading; a pipe or device in its place is refused and never waited for.

    Raises InputError, with `advice` at its end, when it cannot be opened, or read in the block under `with`.
    """
    if "\0" in str(path):
        raise InputError(f"{path}: cannot be read: a file name holds no NUL character{_tail(advice)}")
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            # What was opened is asked, not the name, which may mean something else by now.
            mode = os.fstat(file.fileno()).st_mode
            if kind := irregular(mode):
                raise InputError(f"{path}: cannot be read: {kind}, not a regular file{_tail(advice)}")
            yield file
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        # A path that is longer than any file's comes from a file, not from a user.
        raise InputError(f"{path!s:.4096}: cannot be read: {reason}{_tail(advice)}") from error


def require_regular(path: Path) -> None:
    """Pass when the file can be opened and is a regular one: for libraries that open it by its name and would wait.

    Raises InputError when it cannot, or is not.
    """
    with open_regular(path):
        pass


def irregular(mode: int) -> str:
    """What a file of that mode is when it is not a regular one, such as "a pipe"; "" for a regular file."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def read_bounded(path: Path, largest: int, what: str, *, advice: str = "") -> bytes:
    """The content of a file of at most `largest` bytes; `what` names what is expected there, such as "a contract".

    Raises InputError when it cannot be read or is larger.
    """
    with open_regular(path, advice=advice) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > largest else _read(file, largest + 1)  # it may grow while it is read
    if size > largest or len(content) > largest:
        raise InputError(f"{path}: larger than {largest} bytes; expected {what}{_tail(advice)}")
    return content


def _read(file: BufferedReader, most: int) -> bytes:
    # Piece by piece: a single read of `most` bytes reserves all of them, however small the file is.
    pieces = []
    while most and (piece := file.read(min(most, _PIECE))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _without_waiting(path: str, flags: int) -> int:
    # Opening a pipe would wait for its writer.
    return os.open(path, flags | os.O_NONBLOCK)


def _tail(advice: str) -> str:
    return f"; {advice}" if advice else ""
