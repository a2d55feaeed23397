"""implementation: PyTorch over the decoded file against the runtime, teacher-forced, at every watched position."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conform.contract.finding import Finding
from conform.parity.comparison import BestLogits
from conform.parity.questions.sequences import SequenceKind
from conform.parity.rungs.agreement import MAX_ABS_FLOOR, MOST, WORST, Agreement
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["Position", "WatchedPositions", "judge_implementation"]

_NO_DEBUG_LOGITS = "the runtime prints no debug logits; its output matrix is judged by its best logit alone"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a watched row lies."""

    sequence: str
    number: int


@dataclass(frozen=True, slots=True)
class WatchedPositions:
    """What was measured at every watched position; `watched` counts them by kind of sequence.

    `debug_error` is the largest difference of the runtime's own logits at the end of one prompt; None where it prints
    none.
    """

    positions: Sequence[Position]
    watched: Mapping[SequenceKind, int]
    agreement: Agreement
    best: BestLogits
    debug_error: float | None


def judge_implementation(seen: WatchedPositions) -> RungResult:
    """The logits of every watched position in full, and the runtime's own best logit and debug logits beside them."""
    agreement = seen.agreement
    compared = int(agreement.judged.sum())
    if not compared:
        return judged("implementation", 0, "positions")
    worst = seen.positions[agreement.worst_row]
    notes = [f"worst at position {worst.number} of {worst.sequence}", _watched(seen.watched)]
    if seen.debug_error is None:
        notes.append(_NO_DEBUG_LOGITS)
    findings = list(_wrong_best(seen))
    return judged("implementation", compared, "positions", list(_measurements(seen)), findings, notes)


def _measurements(seen: WatchedPositions) -> Iterator[Measurement]:
    agreement = seen.agreement
    yield agreement.nmse(MOST).measurement("NMSE of logits, three positions in four")
    yield agreement.nmse(WORST).measurement("NMSE of logits, worst position")
    yield agreement.max_abs(MOST).measurement("max abs of logits, three positions in four")
    yield agreement.max_abs(WORST).measurement("max abs of logits, worst position")
    errors = seen.best.error
    largest = float(errors.max()) if np.isfinite(errors).all() else float("inf")
    yield Measurement("its best logit against its own hidden state", largest, MAX_ABS_FLOOR, "floor")
    if seen.debug_error is not None:
        tolerance = agreement.max_abs(WORST).tolerance
        yield Measurement("its debug logits, worst of the vocabulary", seen.debug_error, tolerance)


def _wrong_best(seen: WatchedPositions) -> Iterator[Finding]:
    """Positions at which the runtime calls a token best that its own hidden state puts clearly behind another."""
    rows = zip(seen.positions, seen.best.claimed, seen.best.found, seen.best.behind, strict=True)
    for position, claimed, best, behind in rows:
        if not behind <= 2 * MAX_ABS_FLOOR:
            where = f"{position.sequence}, position {position.number}"
            yield Finding("error", where, f"the best token, {best}", f"{claimed}, which is {behind:.3g} behind")


def _watched(counts: Mapping[SequenceKind, int]) -> str:
    return "positions watched: " + ", ".join(f"{kind} {count}" for kind, count in counts.items())
