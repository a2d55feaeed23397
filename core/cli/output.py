"""Output: the files that a command writes for its user, complete or not at all, and never over something else."""

import json
from pathlib import Path

import click

from conform.core.errors import ConformError
from conform.core.files.atomic import write_atomically

__all__ = ["check_replaceable", "write_json", "write_text_atomically"]


def write_json(report: object, path: str | None) -> bool:
    """Write the report where --json said; True when that was stdout, so that no table should follow."""
    if path is None:
        return False
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        click.echo(text, nl=False)
        return True
    write_text_atomically(Path(path), text)
    return False


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
