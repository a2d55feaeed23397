"""Export summary: plans and reports of exports as rows of a table and as JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from conform.core.export.cost import Cost
from conform.core.export.plan import ExportPlan, TensorPlan
from conform.core.export.run import ExportReport, TensorReport

__all__ = [
    "FILE_HEADINGS",
    "PLAN_HEADINGS",
    "cost_table",
    "file_row",
    "plan_rows",
    "plan_to_json",
    "plan_total",
    "report_to_json",
]

PLAN_HEADINGS = ("tensor", "GGUF name", "shape", "transform", "quantizer", "bytes", "bits/weight")
FILE_HEADINGS = ("file", "bytes", "bits/weight")


def plan_rows(plan: ExportPlan) -> Iterator[tuple[str, ...]]:
    """One row for each tensor."""
    for tensor in plan.tensors:
        spec = tensor.spec
        shape = "×".join(map(str, spec.shape))
        size = (f"{tensor.nbytes:,}", f"{tensor.bits_per_weight:.4g}")
        yield (spec.name, spec.gguf_name, shape, str(tensor.transform), tensor.codec.name, *size)


def plan_total(plan: ExportPlan) -> str:
    """The size of the whole file in one line."""
    header = len(plan.header())
    return (
        f"{plan.target}: {len(plan.tensors)} tensors, {plan.weights:,} weights, {header + plan.data_bytes:,} bytes "
        f"({header:,} of them header), {plan.bits_per_weight:.4f} bits per weight"
    )


def plan_to_json(plan: ExportPlan) -> dict[str, Any]:
    """The plan of one file."""
    return {
        "path": str(plan.target),
        "bytes": len(plan.header()) + plan.data_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "notes": list(plan.notes),
        "tensors": [_tensor_to_json(tensor) for tensor in plan.tensors],
    }


def report_to_json(report: ExportReport) -> dict[str, Any]:
    """One finished file."""
    return {
        "path": str(report.path),
        "bytes": report.size,
        "sha256": report.sha256,
        "bits_per_weight": report.bits_per_weight,
        "checkpoint_digest": report.checkpoint_digest,
        "tensors": [
            _tensor_to_json(tensor.plan)
            | {
                "sha256": tensor.sha256,
                "relative_error": _finite(tensor.cost.relative_error),
                "weighted_relative_error": _finite(tensor.cost.weighted_relative_error),
            }
            for tensor in report.tensors
        ],
    }


def file_row(report: ExportReport) -> tuple[str, ...]:
    """The row of one finished file."""
    return (report.path.name, f"{report.size:,}", f"{report.bits_per_weight:.4f}")


def cost_table(report: ExportReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings, and one row for each storage class and quantizer: what it takes and what it cost.

    Errors weighted by importance have a column if there was an importance matrix.
    """
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in report.tensors:
        groups.setdefault((tensor.plan.spec.storage_class, tensor.plan.codec.name), []).append(tensor)
    weighted = any(tensor.plan.importance is not None for tensor in report.tensors)
    headings = ("class", "quantizer", "tensors", "bytes", "bits/weight", "relative error")
    rows = [
        (*group, *_size_cells(tensors), *_error_cells(tensors, weighted=weighted)) for group, tensors in groups.items()
    ]
    return (*headings, *(("weighted",) if weighted else ()), "worst tensor"), rows


def _size_cells(tensors: Sequence[TensorReport]) -> tuple[str, ...]:
    nbytes = sum(tensor.plan.nbytes for tensor in tensors)
    weights = sum(math.prod(tensor.plan.spec.shape) for tensor in tensors)
    return (str(len(tensors)), f"{nbytes:,}", f"{8 * nbytes / weights:.4g}")


def _error_cells(tensors: Sequence[TensorReport], *, weighted: bool) -> tuple[str, ...]:
    total = sum((tensor.cost for tensor in tensors), start=Cost(0, 0, 0, 0))
    if total.errors == 0:
        return ("exact", "exact", "") if weighted else ("exact", "")
    worst = max(tensors, key=lambda tensor: tensor.cost.relative_error)
    errors = [total.relative_error] + ([total.weighted_relative_error] if weighted else [])
    return (*(f"{error:.3g}" for error in errors), f"{worst.plan.spec.gguf_name} {worst.cost.relative_error:.3g}")


def _tensor_to_json(tensor: TensorPlan) -> dict[str, Any]:
    return {
        "name": tensor.spec.gguf_name,
        "source": tensor.spec.name,
        "shape": list(tensor.spec.shape),
        "class": tensor.spec.storage_class,
        "transform": str(tensor.transform),
        "quantizer": tensor.codec.name,
        "not_stored_as": [misfit.quantizer for misfit in tensor.skipped],
        "plugin": tensor.codec.owner,
        "bytes": tensor.nbytes,
        "offset": tensor.offset,
        "bits_per_weight": tensor.bits_per_weight,
    }


def _finite(value: float) -> float | None:
    # JSON has no infinity; a tensor of zeros that did not stay so has no relative error.
    return value if math.isfinite(value) else None
