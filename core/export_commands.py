"""conform export: a checkpoint → GGUF files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from conform.contract.finding import Finding, failed
from conform.core.errors import CheckpointError
from conform.core.quantizer import Effort
from conform.core.report import finding_to_json, json_option, print_findings, print_table, progress_bar, write_json
from conform.core.tuning import TernaryScale, Tuning

if TYPE_CHECKING:
    from conform.contract.spec import Contract
    from conform.core.checkpoint import Checkpoint
    from conform.core.export import ExportReport
    from conform.core.plan import ExportPlan
    from conform.core.vocabulary import Vocabulary

__all__ = ["export"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint", required=False, type=_PATH)
@click.option(
    "--quant",
    "quants",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A quantizer, or a pattern such as 'iq3_*'; repeatable, one file each.",
)
@click.option("-o", "--output", type=_PATH, help="The file to write, or the folder.  [default: beside the checkpoint]")
@click.option(
    "--contract", "contract_name", metavar="NAME", help="A contract's name or file.  [default: the checkpoint's own]"
)
@click.option("--tokenizer", type=_PATH, help="The SentencePiece model.  [default: tokenizer.model beside the weights]")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="PATTERN=QUANT",
    help="Store tensors whose GGUF name matches otherwise, as in 'output=q8_0'; repeatable, the last match counts.",
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
    "--runs", type=_PATH, default=Path("runs"), show_default=True, help="Where the newest checkpoint is looked for."
)
@json_option
def export(
    checkpoint: Path | None,
    quants: tuple[str, ...],
    output: Path | None,
    contract_name: str | None,
    tokenizer: Path | None,
    types: tuple[str, ...],
    effort: str,
    ternary_scale: str,
    dry_run: bool,
    runs: Path,
    json_path: str | None,
) -> int:
    """Export CHECKPOINT to GGUF, one file for each --quant.

    Without CHECKPOINT the newest one under --runs is taken. A file appears under its name only when it is complete and
    has been read again.
    """
    from conform.core.plan import check_export, plan_export
    from conform.core.policy import parse_override
    from conform.core.target import export_targets
    from conform.plugins.host import load_registry

    registry = load_registry()
    names = list(dict.fromkeys(quantizer.name for quant in quants for quantizer in registry.match(quant)))
    source = _open(checkpoint, runs, contract_name, tokenizer)
    findings = check_export(source.checkpoint, source.contract, source.vocabulary)
    if failed(findings):
        return _refuse(source, findings, json_path)
    targets = export_targets(names, source.contract.name, source.checkpoint.folder, output)
    plans = [
        plan_export(
            source.checkpoint,
            source.contract,
            source.vocabulary,
            registry,
            name,
            target,
            overrides=[parse_override(text) for text in types],
            tuning=Tuning(cast(Effort, effort), cast(TernaryScale, ternary_scale)),
        )
        for name, target in targets.items()
    ]
    if dry_run:
        return _print_plans(source, findings, plans, json_path)
    return _run(source, findings, plans, json_path)


@dataclass(frozen=True, slots=True)
class _Source:
    """What is exported."""

    checkpoint: "Checkpoint"
    contract: "Contract"
    vocabulary: "Vocabulary"

    def to_json(self, findings: Sequence[Finding]) -> dict[str, object]:
        """What stands in every JSON report of an export."""
        return {
            "checkpoint": str(self.checkpoint.path),
            "contract": {"name": self.contract.name, "digest": self.contract.digest},
            "findings": [finding_to_json(finding) for finding in findings],
        }


def _open(checkpoint: Path | None, runs: Path, contract_name: str | None, tokenizer: Path | None) -> _Source:
    from conform.core.checkpoint import contract_of, newest_checkpoint, open_checkpoint
    from conform.core.vocabulary import read_vocabulary

    if checkpoint is None:
        checkpoint = newest_checkpoint(runs)
        click.echo(f"Newest checkpoint: {checkpoint}", err=True)
    opened = open_checkpoint(checkpoint)
    contract = contract_of(opened, contract_name)
    if contract.model.tied_embeddings:
        opened = opened.without_tied_copy()
    tokenizer = tokenizer or opened.tokenizer_path
    if tokenizer is None:
        raise CheckpointError(f"{opened.folder}: no tokenizer.model beside the weights; name one with --tokenizer")
    return _Source(opened, contract, read_vocabulary(tokenizer))


def _refuse(source: _Source, findings: Sequence[Finding], json_path: str | None) -> int:
    if not write_json(source.to_json(findings) | {"files": []}, json_path):
        print_findings(findings)
        click.echo(f"{source.checkpoint.path} does not meet contract {source.contract.name}; nothing was exported.")
    return 1


def _print_plans(
    source: _Source, findings: Sequence[Finding], plans: Sequence["ExportPlan"], json_path: str | None
) -> int:
    from conform.core.export_summary import PLAN_HEADINGS, plan_rows, plan_to_json, plan_total

    report = source.to_json(findings) | {"dry_run": True, "files": [plan_to_json(plan) for plan in plans]}
    if write_json(report, json_path):
        return 0
    _print_warnings(findings)
    for plan in plans:
        print_table(PLAN_HEADINGS, plan_rows(plan))
        click.echo(plan_total(plan) + "\n")
    return 0


def _run(source: _Source, findings: Sequence[Finding], plans: Sequence["ExportPlan"], json_path: str | None) -> int:
    from conform.core.export_summary import COST_HEADINGS, FILE_HEADINGS, cost_rows, file_row, report_to_json

    reports = _export_all(source, plans)
    report = source.to_json(findings) | {"dry_run": False, "files": [report_to_json(report) for report in reports]}
    if write_json(report, json_path):
        return 0
    _print_warnings(findings)
    for finished in reports:
        print_table(COST_HEADINGS, cost_rows(finished), title=finished.path.name)
        click.echo()
    print_table(FILE_HEADINGS, [file_row(finished) for finished in reports])
    return 0


def _export_all(source: _Source, plans: Sequence["ExportPlan"]) -> list["ExportReport"]:
    from conform.core.export import run_export

    reports = []
    with progress_bar() as bar:
        hashing = bar.add_task("hashing the checkpoint", total=None)
        source.checkpoint.hash_files(lambda step: bar.advance(hashing, step))
        bar.remove_task(hashing)
        for plan in plans:
            task = bar.add_task(plan.target.name, total=len(plan.tensors))
            reports.append(run_export(plan, lambda _name, task=task: bar.advance(task)))  # type: ignore[misc]
            if bar.disable:
                click.echo(f"{plan.target}: {len(plan.tensors)} tensors written", err=True)
    return reports


def _print_warnings(findings: Sequence[Finding]) -> None:
    if findings:
        print_findings(findings)
        click.echo()
