"""Verdict: what each rung measured, and whether that is enough.

Nothing compared is a failure, and a rung that was not run has not passed. One that was waived says why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from conform.contract.finding import Finding, failed
from conform.core.runtime import FaultKind, RuntimeFault

__all__ = [
    "RUNGS",
    "Ledger",
    "Measurement",
    "RungName",
    "RungResult",
    "RungStatus",
    "Verdict",
    "blocked",
    "faulted",
    "judged",
    "not_run",
    "waived",
]

RungName: TypeAlias = Literal[
    "file",
    "tokens",
    "weights",
    "implementation",
    "source",
    "quantisation",
    "greedy",
    "sampling",
    "likelihood",
    "integrity",
]
RungStatus: TypeAlias = Literal["pass", "fail", "not run", "waived"]
RUNGS: tuple[RungName, ...] = get_args(RungName)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number beside the largest that passes; a tolerance of None makes it information only."""

    name: str
    measured: float
    tolerance: float | None = None
    how: str = ""

    @property
    def passed(self) -> bool:
        """True when it is within its tolerance; a number that is not finite never is."""
        return self.tolerance is None or (math.isfinite(self.measured) and self.measured <= self.tolerance)


@dataclass(frozen=True, slots=True)
class RungResult:
    """One rung: how many `unit` were compared, what was measured, what was found wrong.

    `fault` is set when the runtime did not answer; `reason` says in a sentence why the rung failed, did not run or was
    waived.
    `blocked_by` names the rungs that this one builds on, when it was not run because of them.
    """

    rung: RungName
    status: RungStatus
    compared: int = 0
    unit: str = ""
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    fault: FaultKind | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    blocked_by: tuple[RungName, ...] = ()

    @property
    def blocks(self) -> bool:
        """True when the rungs that build on this one would mean nothing: it failed, or was itself blocked."""
        return self.status == "fail" or bool(self.blocked_by)

    @property
    def passed(self) -> bool:
        """True only when something was compared and all of it held."""
        return self.status == "pass"

    @property
    def suffices(self) -> bool:
        """True when the verdict may pass with it: it passed, or was waived."""
        return self.passed or self.status == "waived"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What two steps cost, in nats per token: mean KL divergence, and the change of the negative log-likelihood."""

    kl: float
    likelihood_change: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one runtime on one GGUF file, bound by its receipt to everything that took part."""

    model: str
    rungs: tuple[RungResult, ...]
    quantisation: Ledger | None = None
    implementation: Ledger | None = None
    receipt: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when every rung of the ladder is there and passed, or was waived."""
        return [rung.rung for rung in self.rungs] == list(RUNGS) and all(rung.suffices for rung in self.rungs)

    def to_json(self) -> dict[str, Any]:
        """The report; numbers that JSON cannot hold are written as text."""
        return {
            "model": self.model,
            "conforms": self.passed,
            "rungs": [_rung_to_json(rung) for rung in self.rungs],
            "ledgers_nats_per_token": {
                "quantisation": _ledger_to_json(self.quantisation),
                "implementation": _ledger_to_json(self.implementation),
            },
            "receipt": dict(self.receipt),
        }


def judged(
    rung: RungName,
    compared: int,
    unit: str,
    measurements: Sequence[Measurement] = (),
    findings: Sequence[Finding] = (),
    notes: Sequence[str] = (),
) -> RungResult:
    """The result of a rung that ran; it passes only if something was compared and nothing is out of tolerance."""
    outside = [m for m in measurements if not m.passed]
    reason = ""
    if not compared:
        reason = "nothing was compared"
    elif outside:
        reason = "; ".join(f"{m.name} is {m.measured:.3g}, at most {m.tolerance:.3g} passes" for m in outside)
    elif failed(findings):
        errors = [finding for finding in findings if finding.severity == "error"]
        reason = f"{errors[0]}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
    status: RungStatus = "fail" if reason else "pass"
    return RungResult(
        rung, status, compared, unit, tuple(measurements), tuple(findings), reason=reason, notes=tuple(notes)
    )


def faulted(rung: RungName, fault: RuntimeFault) -> RungResult:
    """The result of a rung whose question the runtime did not answer."""
    return RungResult(rung, "fail", fault=fault.kind, reason=str(fault))


def not_run(rung: RungName, reason: str) -> RungResult:
    """A rung that could not be run; those that build on it are run all the same."""
    return RungResult(rung, "not run", reason=reason)


def waived(rung: RungName, reason: str, *notes: str) -> RungResult:
    """A rung that could not be run and that the verdict does without, for the reason given."""
    return RungResult(rung, "waived", reason=reason, notes=notes)


def blocked(rung: RungName, by: Sequence[RungResult]) -> RungResult:
    """A rung that was not run because of what became of those that it builds on."""
    fates = (f"{broken.rung} {'failed' if broken.status == 'fail' else 'was not run'}" for broken in by)
    return RungResult(rung, "not run", reason=" and ".join(fates), blocked_by=tuple(broken.rung for broken in by))


def _rung_to_json(rung: RungResult) -> dict[str, Any]:
    return {
        "rung": rung.rung,
        "status": rung.status,
        "compared": rung.compared,
        "unit": rung.unit,
        "measurements": [
            {"name": m.name, "measured": _number(m.measured), "tolerance": _number(m.tolerance), "how": m.how}
            for m in rung.measurements
        ],
        "findings": [finding.to_json() for finding in rung.findings],
        "fault": rung.fault,
        "reason": rung.reason,
        "notes": list(rung.notes),
    }


def _ledger_to_json(ledger: Ledger | None) -> dict[str, Any] | None:
    if ledger is None:
        return None
    return {"kl": _number(ledger.kl), "likelihood_change": _number(ledger.likelihood_change)}


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
