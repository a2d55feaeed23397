"""source: conform's reading of the checkpoint against another implementation of the family, both on the checkpoint.

Every other rung takes the checkpoint as conform reads it. A configuration that is misread is misread by exporter and
reference alike, and only somebody else's program can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from conform.parity.rungs.agreement import MOST, WORST, Agreement
from conform.parity.rungs.implementation import Position
from conform.parity.verdict import Measurement, RungResult, judged, not_run, waived

__all__ = ["CheckedSource", "UncheckedSource", "judge_source"]


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """Both implementations at the same positions; `library` names the other one with its version."""

    library: str
    positions: Sequence[Position]
    agreement: Agreement
    kl: float
    """Mean KL(conform's reference || library) in nats."""
    other_best: float
    """The share of positions at which the two call another token best."""


@dataclass(frozen=True, slots=True)
class UncheckedSource:
    """Why nothing could be compared. `tried` is False where no other implementation is there to be asked.

    `waiver` says why a verdict may do without; it is empty when it may not.
    """

    reason: str
    tried: bool
    waiver: str = ""


def judge_source(seen: CheckedSource | UncheckedSource | None) -> RungResult:
    """The logits of every position in full; None stands for a file without a checkpoint."""
    if seen is None:
        return not_run("source", "no checkpoint to compare with; give --checkpoint")
    if isinstance(seen, UncheckedSource):
        return _unchecked(seen)
    if not seen.positions:
        return judged("source", 0, "positions")
    agreement = seen.agreement
    measured = [
        agreement.nmse(MOST).measurement("NMSE of logits, three positions in four"),
        agreement.nmse(WORST).measurement("NMSE of logits, worst position"),
        Measurement("mean KL in nats", seen.kl),
        Measurement("positions with another best token", seen.other_best),
    ]
    worst = seen.positions[agreement.worst_row]
    notes = [f"against {seen.library}", f"worst at position {worst.number} of {worst.sequence}"]
    return judged("source", len(seen.positions), "positions", measured, notes=notes)


def _unchecked(seen: UncheckedSource) -> RungResult:
    if seen.waiver:
        return waived("source", seen.waiver, seen.reason)
    reason = f"source not checked: {seen.reason}"
    return RungResult("source", "fail", reason=reason) if seen.tried else not_run("source", reason)
