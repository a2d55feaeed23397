"""Export: a checkpoint to files, from the request to the reports."""

from collections.abc import Callable
from pathlib import Path

from conform.contract.finding import failed
from conform.core.catalog import Catalog
from conform.core.errors import ExportError
from conform.core.export.request import ExportRequest, ExportSource, open_source, plan_request
from conform.core.export.run import ExportReport, run_export

__all__ = ["export_checkpoint"]


def export_checkpoint(
    checkpoint: Path, request: ExportRequest, catalog: Catalog, progress: Callable[[str], None] | None = None
) -> list[ExportReport]:
    """One file for each quantizer asked for, or one for their mix; `progress` is given the name of each tensor done.

    Raises ExportError listing the findings when the checkpoint violates its contract, and whatever `open_source`,
    `plan_request` and `run_export` raise.
    """
    source = open_source(checkpoint, request)
    if failed(source.findings):
        raise ExportError(_violations(source))
    return [run_export(plan, progress) for plan in plan_request(request, source, catalog, progress)]


def _violations(source: ExportSource) -> str:
    errors = "; ".join(str(finding) for finding in source.findings if finding.severity == "error")
    return f"{source.checkpoint.path} does not meet contract {source.contract.name}; nothing was exported: {errors}"
