"""conform export: a checkpoint → GGUF files."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from conform.contract.finding import failed
from conform.core.cli.console import print_findings, print_table, progress_bar
from conform.core.cli.options import PATH, json_option
from conform.core.cli.output import write_json
from conform.core.i2_s.format import TernaryScale
from conform.core.quantizer import Effort

if TYPE_CHECKING:
    from conform.core.export import ExportPlan, ExportReport, ExportRequest, ExportSource

__all__ = ["export"]

# Seconds between two lines of progress where there is no terminal.
_PATIENCE = 10.0


@click.command()
@click.argument("checkpoint", required=False, type=PATH)
@click.option(
    "--quant",
    "quants",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A quantizer, or a pattern such as 'iq3_*'; repeatable, one file each.",
)
@click.option(
    "-o", "--output", metavar="PATH", help="The file to write, or the folder.  [default: beside the checkpoint]"
)
@click.option("--contract", metavar="NAME", help="A contract's name or file.  [default: the checkpoint's own]")
@click.option(
    "--tokenizer", type=PATH, help="The tokenizer.model or tokenizer.json.  [default: the one beside the weights]"
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="PATTERN=QUANT",
    help="Store tensors whose GGUF name matches otherwise, as in 'output=q8_0'; repeatable, the last match counts.",
)
@click.option(
    "--fallback",
    "fallbacks",
    multiple=True,
    metavar="NAME",
    help="Store tensors whose rows a quantizer does not take as NAME, such as iq4_nl; repeatable, the first that fits.",
)
@click.option("--imatrix", type=PATH, metavar="FILE", help="An importance matrix, GGUF or .dat.")
@click.option(
    "--target-bpw",
    type=click.FloatRange(0, 64, min_open=True),
    metavar="X",
    help="One file: of all --quant, the mix with the least error in at most X bits per weight.",
)
@click.option(
    "--effort",
    type=click.Choice(get_args(Effort)),
    default="default",
    show_default=True,
    help="How hard a quantizer searches.",
)
@click.option(
    "--ternary-scale",
    type=click.Choice(get_args(TernaryScale)),
    default="absmean",
    show_default=True,
    help="How i2_s scales a matrix that is not ternary.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option(
    "--runs",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Where the newest checkpoint is looked for.",
)
@json_option
def export(
    checkpoint: Path | None,
    quants: tuple[str, ...],
    output: str | None,
    contract: str | None,
    tokenizer: Path | None,
    types: tuple[str, ...],
    fallbacks: tuple[str, ...],
    imatrix: Path | None,
    target_bpw: float | None,
    effort: str,
    ternary_scale: str,
    dry_run: bool,
    runs: Path,
    json_path: str | None,
) -> int:
    """Export CHECKPOINT to GGUF, one file for each --quant.

    Without CHECKPOINT the newest one under --runs is taken. A file appears under its name only when it is complete and
    has been read again; an interrupted export resumes when the same command is given again.
    """
    from conform.core.export import ExportRequest, Tuning, plan_request, unfit_quants
    from conform.core.export.policy import parse_override
    from conform.plugins.host import load_registry
    from conform.plugins.quantizers.kernels.notice import on_compile

    on_compile(_say_compiling)
    registry = load_registry()
    matched = tuple(dict.fromkeys(codec.name for quant in quants for codec in registry.match(quant)))
    request = ExportRequest(
        quants=matched,
        output=output,
        contract=contract,
        tokenizer=tokenizer,
        overrides=tuple(parse_override(text) for text in types),
        imatrix=imatrix,
        target_bpw=target_bpw,
        tuning=Tuning(cast(Effort, effort), cast(TernaryScale, ternary_scale)),
        fallbacks=fallbacks,
        optional=tuple(name for name in matched if name not in quants),
    )
    source = _open(checkpoint or _newest(runs), request)
    if failed(source.findings):
        return _refuse(source, json_path)
    for name, reason in unfit_quants(request, source, registry).items():
        click.echo(f"{name}: left out: {reason}", err=True)
    with nullcontext(None) if target_bpw is None else _progress("measuring errors", None) as step:
        plans = plan_request(request, source, registry, step)
    return _print_plans(source, plans, json_path) if dry_run else _run(source, plans, json_path)


def _say_compiling(module: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"Compiling {module} for this machine, once; it is kept on disk.", err=True)


def _open(asked: Path, request: "ExportRequest") -> "ExportSource":
    from conform.core.export import open_source

    source = open_source(asked, request)
    if source.checkpoint.path != asked:
        click.echo(f"{asked}: taking {source.checkpoint.path}", err=True)
    return source


def _newest(runs: Path) -> Path:
    from conform.core.checkpoint.locate import newest_checkpoint

    checkpoint = newest_checkpoint(runs)
    click.echo(f"Newest checkpoint: {checkpoint}", err=True)
    return checkpoint


def _to_json(source: "ExportSource", files: Sequence[object], *, dry_run: bool = False) -> dict[str, object]:
    return {
        "checkpoint": str(source.checkpoint.path),
        "contract": {"name": source.contract.name, "digest": source.contract.digest},
        "inference": source.inference.to_json() if source.inference else None,
        "findings": [finding.to_json() for finding in source.findings],
        "dry_run": dry_run,
        "files": files,
    }


def _refuse(source: "ExportSource", json_path: str | None) -> int:
    if not write_json(_to_json(source, []), json_path):
        _print_source(source)
        click.echo(f"{source.checkpoint.path} does not meet contract {source.contract.name}; nothing was exported.")
    return 1


def _print_plans(source: "ExportSource", plans: Sequence["ExportPlan"], json_path: str | None) -> int:
    from conform.core.export.summary import PLAN_HEADINGS, plan_rows, plan_to_json, plan_total

    if write_json(_to_json(source, [plan_to_json(plan) for plan in plans], dry_run=True), json_path):
        return 0
    _print_source(source)
    for plan in plans:
        print_table(PLAN_HEADINGS, plan_rows(plan))
        _print_notes(plan)
        click.echo(plan_total(plan) + "\n")
    return 0


def _run(source: "ExportSource", plans: Sequence["ExportPlan"], json_path: str | None) -> int:
    from conform.core.export.summary import FILE_HEADINGS, cost_table, file_row, report_to_json

    reports = _export_all(source, plans)
    if write_json(_to_json(source, [report_to_json(report) for report in reports]), json_path):
        return 0
    _print_source(source)
    for plan in plans:
        _print_notes(plan)
    for report in reports:
        print_table(*cost_table(report), title=report.path.name)
        click.echo()
    print_table(FILE_HEADINGS, [file_row(report) for report in reports])
    click.echo()
    for report in reports:
        click.echo(f"{report.sha256}  {report.path}")  # as sha256sum -c reads it
    return 0


def _export_all(source: "ExportSource", plans: Sequence["ExportPlan"]) -> list["ExportReport"]:
    from conform.core.export import run_export

    with progress_bar() as bar:
        hashing = bar.add_task("hashing the checkpoint", total=None)
        source.checkpoint.hash_files(lambda count: bar.advance(hashing, count))
    reports = []
    for plan in plans:
        try:
            with _progress(plan.target.name, len(plan.tensors)) as step:
                reports.append(run_export(plan, step))
        except KeyboardInterrupt:
            click.echo(f"{plan.target}: not finished; the same command goes on from here", err=True)
            raise
        click.echo(f"{plan.target}: {len(plan.tensors)} tensors written", err=True)
    return reports


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[str], None]]:
    """Yields what counts each tensor that is done: with a bar on a terminal, else with a line now and then."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        said, done = (time.monotonic(), 0)

        def step(name: str) -> None:
            nonlocal said, done
            done += 1
            bar.advance(task)
            if bar.disable and time.monotonic() - said > _PATIENCE:
                said = time.monotonic()
                click.echo(f"{what}: {name} done, {done}{f' of {total}' if total else ''}", err=True)

        yield step


def _print_notes(plan: "ExportPlan") -> None:
    for note in plan.notes:
        click.echo(f"{plan.target.name}: {note}")


def _print_source(source: "ExportSource") -> None:
    """What was understood of a stranger's checkpoint, and every finding."""
    if source.inference:
        click.echo(f"{source.checkpoint.path}: {source.inference.summary}\n")
    if source.findings:
        print_findings(source.findings)
        click.echo()
