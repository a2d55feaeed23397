"""Battery: all checks, run on one quantizer."""

import contextlib
import warnings
from dataclasses import dataclass

import numpy as np

from conform.core.errors import PluginError
from conform.core.guard import guarded
from conform.core.quantizer import Quantizer
from conform.plugins.testing import accuracy, edges, independent, process, purity, sizes
from conform.plugins.testing.check import Check, CheckResult, run_check
from conform.plugins.testing.subject import Subject

__all__ = ["CHECKS", "Certificate", "certify"]

CHECKS: tuple[Check, ...] = (
    *sizes.CHECKS,
    *purity.CHECKS,
    *process.CHECKS,
    *accuracy.CHECKS,
    *edges.CHECKS,
    *independent.CHECKS,
)
"""Every check, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What came of the battery."""

    quantizer: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed; none for a certified quantizer."""
        return tuple(result for result in self.results if result.outcome == "fail")

    def __bool__(self) -> bool:
        # Without a single check there is nothing to certify.
        return bool(self.results) and not self.failures

    def __str__(self) -> str:
        lines = [f"{failure.check}: {failure.detail} (promised: {failure.promise})" for failure in self.failures]
        return "\n".join([f"{self.quantizer}: {len(self.results)} checks, {len(self.failures)} failed", *lines])


def certify(quantizer: Quantizer, checks: tuple[Check, ...] = CHECKS) -> Certificate:
    """The certificate of a quantizer; in a test, `certificate = certify(mine)`, `assert certificate, certificate`.

    Raises PluginError for a quantizer that cannot be copied, ModuleNotFoundError without the extra `kit`.
    """
    import hypothesis  # noqa: F401  # some checks need it: its absence is no failure of the quantizer

    name = str(getattr(quantizer, "name", "?"))
    with guarded(f"quantizer {name} cannot be copied"):
        subject = Subject(quantizer)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        _warm_up(subject)
        results = tuple(run_check(check, subject) for check in checks)
    return Certificate(name, results)


def _warm_up(subject: Subject) -> None:
    # Tables, imports and compiled kernels are made at the first call; no check should measure that.
    # Whatever it raises, the checks will report.
    with contextlib.suppress(PluginError), guarded("the first call failed"):
        subject.round_trip(subject.gaussian())
