"""Atomic write: a file that is there as a whole or not at all, even when the power goes."""

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """The file is replaced as a whole and on disk when this returns. Raises OSError, leaving what was there before."""
    # The same name every time: what a killed process left under it is overwritten, not collected.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
