"""Console: findings, tables and progress on a terminal; plain lines where there is none."""

from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from conform.contract.finding import Finding

__all__ = ["console", "print_findings", "print_table", "progress_bar"]

_MOST_ROWS = 1000  # a hostile file can cause a million findings, and a table is laid out as a whole


def console(*, stderr: bool = False) -> Console:
    """A console on the current stdout or stderr; wide enough when piped that nothing wraps."""
    stream = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return stream if stream.is_terminal else Console(stderr=stderr, highlight=False, width=160, soft_wrap=True)


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
