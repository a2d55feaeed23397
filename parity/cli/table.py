"""Table: verdicts on a terminal: every rung with its numbers beside their tolerances, and what was wrong."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conform.core.cli.console import console, print_findings, print_table, progress_bar
from conform.parity.progress import Progress
from conform.parity.verdict import Ledger, Measurement, RungResult, Verdict

if TYPE_CHECKING:
    from conform.parity.selftest.selftest import PlantedFault

__all__ = ["print_expected", "print_faults", "print_verdict", "print_verdicts", "progress_lines"]

_MOST_FINDINGS = 8
# Notes are wrapped to about the width of the measurements' names, under which they stand.
_NOTE_WIDTH = 43


def print_verdict(verdict: Verdict) -> None:
    """The ladder of one file with the notes of each rung, the findings of those that failed, and the two ledgers."""
    rows = [row for rung in verdict.rungs for row in (*_rows(rung), *_notes(rung))]
    headings = ("rung", "", "measured", "", "at most", "compared")
    print_table(headings, rows, title=f"{Path(verdict.model).name} on {_runtime(verdict)}")
    for rung in verdict.rungs:
        if rung.findings:
            print_findings(rung.findings[:_MOST_FINDINGS])
        if len(rung.findings) > _MOST_FINDINGS:
            click.echo(f"… and {len(rung.findings) - _MOST_FINDINGS} more of {rung.rung}, all in --json")
    _print_ledger("quantisation  (checkpoint → decoded file)", verdict.quantisation)
    _print_ledger("implementation (decoded file → runtime)", verdict.implementation)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """One line for each file."""
    for verdict in verdicts:
        name = Path(verdict.model).name
        if verdict.passed:
            click.echo(f"{name}: conforms")
        else:
            broken = next(rung for rung in verdict.rungs if not rung.suffices)
            click.echo(f"{name}: does not conform: {broken.rung}: {_plain(broken.reason)}")


def print_expected(verdicts: Sequence[Verdict], problems: Sequence[Sequence[str]]) -> None:
    """One line for each file that is as expected, and for each problem of one that is not."""
    for verdict, found in zip(verdicts, problems, strict=True):
        name = Path(verdict.model).name
        if not found:
            click.echo(f"{name}: {'conforms' if verdict.passed else 'conforms as expected'}")
        for problem in found:
            click.echo(f"{name}: not as expected: {_plain(problem)}")


def print_faults(faults: "Sequence[PlantedFault]") -> None:
    """Every planted fault, the rung that had to catch it, and by how much it did."""
    rows = [(f.name, f.place, f.what, f.rung, "caught" if f.caught else "MISSED", _margin(f.margin)) for f in faults]
    print_table(("fault", "in the", "what", "rung", "", "out of tolerance by"), rows)
    caught = sum(fault.caught for fault in faults)
    click.echo(f"{caught} of {len(faults)} planted faults caught")


def _margin(value: float) -> str:
    return f"{value:.3g} times" if math.isfinite(value) else "exact rung"


@contextmanager
def progress_lines(path: Path) -> Iterator[Progress]:
    """A bar on a terminal, one line for each stage when piped; both on stderr."""
    bar = progress_bar()
    tasks: dict[str, object] = {}
    with bar:

        def report(what: str, done: int, everything: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=everything)
                if not console(stderr=True).is_terminal:
                    click.echo(f"{path.name}: {what}, {everything} runs", err=True)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]  # a TaskID, which is an int to rich

        yield report


def _rows(rung: RungResult) -> Iterator[tuple[str, ...]]:
    status = {"pass": "pass", "fail": "FAIL", "not run": "NOT RUN", "waived": "waived"}[rung.status]
    compared = f"{rung.compared} {rung.unit}" if rung.compared else ""
    if not rung.measurements:
        yield rung.rung, status, "", rung.reason, "", compared
        return
    for number, measurement in enumerate(rung.measurements):
        first = number == 0
        yield (
            rung.rung if first else "",
            status if first else "",
            _figure(measurement.measured),
            measurement.name,
            _tolerance(measurement),
            compared if first else "",
        )


def _notes(rung: RungResult) -> Iterator[tuple[str, ...]]:
    for note in rung.notes:
        lines = textwrap.wrap(note, _NOTE_WIDTH, initial_indent="- ", subsequent_indent="  ")
        yield "", "", "", "\n".join(lines), "", ""


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.2e}"


def _tolerance(measurement: Measurement) -> str:
    if measurement.tolerance is None:
        return ""
    how = f" ({measurement.how})" if measurement.how else ""
    return f"{_figure(measurement.tolerance)}{how}"


def _runtime(verdict: Verdict) -> str:
    runtime = verdict.receipt.get("runtime", {})
    program = Path(str(runtime.get("program", "?"))).name
    digest = str(runtime.get("sha256", {}).get(program, ""))
    return f"{program} ({digest[:12]})" if digest else program


def _print_ledger(name: str, ledger: Ledger | None) -> None:
    if ledger is not None:
        change = f"{ledger.likelihood_change:+.2e}"
        click.echo(f"cost of {name}: KL {ledger.kl:.2e}, likelihood {change} nats per token")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
