"""Export: from a request to a plan, from a plan to a file that was read again."""

from conform.core.export.export import export_checkpoint
from conform.core.export.plan import ExportPlan, TensorPlan
from conform.core.export.policy import TypeOverride
from conform.core.export.request import ExportRequest, ExportSource, open_source, plan_request, unfit_quants
from conform.core.export.run import ExportReport, TensorReport, run_export
from conform.core.export.tuning import Tuning

__all__ = [
    "ExportPlan",
    "ExportReport",
    "ExportRequest",
    "ExportSource",
    "TensorPlan",
    "TensorReport",
    "Tuning",
    "TypeOverride",
    "export_checkpoint",
    "open_source",
    "plan_request",
    "run_export",
    "unfit_quants",
]
