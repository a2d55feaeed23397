"""Judging a runtime that we did not write, from the outside."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conform.core.runtime import Limits
    from conform.parity.judgement import judge_runtime
    from conform.parity.questions.sequences import Scope
    from conform.parity.verdict import Ledger, Measurement, RungResult, Verdict

__all__ = ["Ledger", "Limits", "Measurement", "RungResult", "Scope", "Verdict", "judge_runtime"]

# Imported when first asked for: the drivers in this package are loaded by every command, and need no torch.
_HOMES = {
    "Ledger": "conform.parity.verdict",
    "Limits": "conform.core.runtime",
    "Measurement": "conform.parity.verdict",
    "RungResult": "conform.parity.verdict",
    "Scope": "conform.parity.questions.sequences",
    "Verdict": "conform.parity.verdict",
    "judge_runtime": "conform.parity.judgement",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
