"""conform export: a checkpoint → GGUF files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from conform.contract.finding import Finding, failed
from conform.core.errors import CheckpointError, PlanError
from conform.core.quantizer import Effort, Float32
from conform.core.report import finding_to_json, json_option, print_findings, print_table, progress_bar, write_json
from conform.core.tuning import TernaryScale, Tuning

if TYPE_CHECKING:
    from conform.contract.spec import Contract
    from conform.core.catalog import Catalog
    from conform.core.checkpoint import Checkpoint
    from conform.core.export import ExportReport
    from conform.core.plan import ExportPlan
    from conform.core.policy import TypeOverride
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
@click.option(
    "-o", "--output", metavar="PATH", help="The file to write, or the folder.  [default: beside the checkpoint]"
)
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
@click.option("--imatrix", type=_PATH, metavar="FILE", help="An importance matrix, GGUF or .dat.")
@click.option(
    "--target-bpw",
    type=click.FloatRange(0, 64, min_open=True),
    metavar="X",
    help="One file: of all --quant, the mix with the least error in at most X bits per weight.",
)
@json_option
def export(
    checkpoint: Path | None,
    quants: tuple[str, ...],
    output: str | None,
    contract_name: str | None,
    tokenizer: Path | None,
    types: tuple[str, ...],
    effort: str,
    ternary_scale: str,
    dry_run: bool,
    runs: Path,
    imatrix: Path | None,
    target_bpw: float | None,
    json_path: str | None,
) -> int:
    """Export CHECKPOINT to GGUF, one file for each --quant.

    Without CHECKPOINT the newest one under --runs is taken. A file appears under its name only when it is complete and
    has been read again.
    """
    from conform.core.plan import check_export
    from conform.core.policy import parse_override
    from conform.plugins.host import load_registry

    registry = load_registry()
    names = list(dict.fromkeys(quantizer.name for quant in quants for quantizer in registry.match(quant)))
    source = _open(checkpoint, runs, contract_name, tokenizer)
    findings = check_export(source.checkpoint, source.contract, source.vocabulary)
    if failed(findings):
        return _refuse(source, findings, json_path)
    importance, warnings = _importance(source.contract, imatrix)
    options = _Options(
        overrides=tuple(parse_override(text) for text in types),
        importance=importance,
        tuning=Tuning(cast(Effort, effort), cast(TernaryScale, ternary_scale)),
    )
    plans = _plans(source, registry, names, output, options, target_bpw)
    if dry_run:
        return _print_plans(source, [*findings, *warnings], plans, json_path)
    return _run(source, [*findings, *warnings], plans, json_path)


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


@dataclass(frozen=True, slots=True)
class _Options:
    """What all files of one call share."""

    overrides: tuple["TypeOverride", ...]
    importance: Mapping[str, Float32] | None
    tuning: Tuning


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


def _importance(contract: "Contract", path: Path | None) -> tuple[Mapping[str, Float32] | None, list[Finding]]:
    from conform.contract.inventory import inventory
    from conform.core.imatrix_file import check_imatrix, read_imatrix

    if path is None:
        return None, []
    matrix = read_imatrix(path)
    findings = check_imatrix(matrix, inventory(contract.model))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f", and {len(errors) - 1} more such entries" if len(errors) > 1 else ""
        raise PlanError(f"{path}: {errors[0]}{more}")
    return matrix.weights(), findings


def _plans(
    source: _Source,
    registry: "Catalog",
    names: Sequence[str],
    output: str | None,
    options: _Options,
    target_bpw: float | None,
) -> list["ExportPlan"]:
    from conform.core.measure import mix_under
    from conform.core.plan import plan_export
    from conform.core.target import export_targets

    def plan(quant: str | Mapping[str, str], target: Path) -> "ExportPlan":
        return plan_export(
            source.checkpoint,
            source.contract,
            source.vocabulary,
            registry,
            quant,
            target,
            overrides=options.overrides,
            importance=options.importance,
            tuning=options.tuning,
        )

    labels = names if target_bpw is None else [f"{target_bpw:.2f}bpw"]
    targets = export_targets(labels, source.contract.name, source.checkpoint.folder, output)
    if target_bpw is None:
        return [plan(name, target) for name, target in targets.items()]
    target = targets[labels[0]]
    candidates = [plan(name, target) for name in names]
    with progress_bar() as bar:
        task = bar.add_task("measuring errors", total=len(candidates[0].tensors))
        mix = mix_under(candidates, target_bpw, lambda _name: bar.advance(task))
    return [plan(mix, target)]


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
    click.echo()
    for finished in reports:
        click.echo(f"{finished.sha256}  {finished.path}")  # as sha256sum -c reads it
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
            try:
                reports.append(run_export(plan, lambda _name, task=task: bar.advance(task)))  # type: ignore[misc]
            except KeyboardInterrupt:
                click.echo(f"{plan.target}: not finished; the same command takes it up again", err=True)
                raise
            if bar.disable:
                click.echo(f"{plan.target}: {len(plan.tensors)} tensors written", err=True)
    return reports


def _print_warnings(findings: Sequence[Finding]) -> None:
    if findings:
        print_findings(findings)
        click.echo()
