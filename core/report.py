"""Report: findings, tables and measurements → terminal or JSON; with the command modules, all that prints."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from conform.contract.finding import Finding
from conform.core.atomic_write import write_atomically
from conform.core.errors import ConformError

__all__ = [
    "check_replaceable",
    "console",
    "finding_to_json",
    "json_option",
    "print_findings",
    "print_table",
    "progress_bar",
    "write_json",
    "write_text_atomically",
]

_MOST_ROWS = 1000  # a hostile file can cause a million findings, and a table is laid out as a whole

_Command = TypeVar("_Command", bound=Callable[..., Any])


def console(*, stderr: bool = False) -> Console:
    """A console on the current stdout or stderr; wide enough when piped that nothing wraps."""
    stream = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return stream if stream.is_terminal else Console(stderr=stderr, highlight=False, width=160, soft_wrap=True)


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
        write_atomically(path, text.encode())
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


def finding_to_json(finding: Finding) -> dict[str, str]:
    """The fields of a finding, for a JSON report."""
    return {
        "severity": finding.severity,
        "where": finding.where,
        "expected": finding.expected,
        "found": finding.found,
        "hint": finding.hint,
    }


def print_findings(findings: Sequence[Finding]) -> None:
    """Findings as rows: severity, where, expected, found, hint. Of very many, the first; --json has them all."""
    rows = [(f.severity, f.where, f.expected, f.found, f.hint) for f in findings[:_MOST_ROWS]]
    print_table(("", "where", "expected", "found", "hint"), rows)
    if (more := len(findings) - _MOST_ROWS) > 0:
        click.echo(f"and {more:,} more findings; --json lists them all")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table; cells are plain text, numbers are right-aligned by the caller's formatting."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    console().print(table)


def progress_bar() -> Progress:
    """A progress bar on stderr; silent when stderr is no terminal."""
    stream = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stream, transient=True, disable=not stream.is_terminal)


def _plain(cell: object) -> str:
    from rich.markup import escape

    # Names come from files: control characters must not reach the terminal, nor may brackets style it.
    return escape("".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in str(cell)))
