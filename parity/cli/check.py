"""Check: what a driver gets out of a runtime, question by question, on a terminal."""

from collections.abc import Sequence

import click

from conform.core.cli.console import print_table
from conform.core.cli.output import write_json
from conform.parity.candidate import Candidate
from conform.parity.driver_check import CheckedQuestion, check_driver, driver_works

__all__ = ["check"]


def check(candidates: Sequence[Candidate], json_path: str | None) -> int:
    """The exit status: 0 when every question was answered rightly on every file, or may be left unanswered."""
    works, report = True, []
    for candidate in candidates:
        checked = list(check_driver(candidate.runtime, candidate.file))
        candidate.runtime.close()
        works &= driver_works(checked)
        report.append({"model": str(candidate.file.path), "questions": [one.to_json() for one in checked]})
        if json_path != "-":
            _print(candidate.file.path.name, checked)
    if not write_json({"works": works, "files": report}, json_path):
        click.echo("the driver works" if works else "the driver does not work")
    return 0 if works else 1


def _print(model: str, checked: Sequence[CheckedQuestion]) -> None:
    rows = [(one.name, one.status, f"{one.seconds:.2f} s", one.said) for one in checked]
    print_table(("question", "", "", "said"), rows, title=model)
