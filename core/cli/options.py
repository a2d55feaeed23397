"""Options: what several commands are asked in the same words."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

__all__ = ["PATH", "json_option"]

PATH = click.Path(path_type=Path)

_Command = TypeVar("_Command", bound=Callable[..., object])


def json_option(command: _Command) -> _Command:
    """`--json` alone prints the report to stdout in place of the table; `--json FILE` writes it there as well."""
    option = click.option(
        "--json",
        "json_path",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        callback=_report_path,
        help="Print the report as JSON instead of a table, or write it to FILE as well.",
    )
    return option(command)


def _report_path(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or value == "-":
        return value
    path = Path(value)
    # Asked now, not after an hour of work.
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent}: no such folder to write the report to")
    # An optional value swallows the next argument: `conform parity --json model.gguf` must not overwrite the model.
    if path.exists() and not _is_report(path):
        raise click.BadParameter(f"{value} exists and is no report; put --json last, or write --json=- for stdout")
    return value


def _is_report(path: Path) -> bool:
    """Whether an existing file may be replaced by a report: an empty one, or JSON."""
    if not path.is_file():  # a pipe would wait for a writer
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) in (b"", b"{", b"[")
    except OSError:
        return False
