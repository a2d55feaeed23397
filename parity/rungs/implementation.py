"""implementation: PyTorch over the decoded file against the runtime, teacher-forced, at every watched position."""

import numpy as np

from conform.contract.finding import Finding
from conform.core.runtime import Request
from conform.parity.evidence import Evidence
from conform.parity.metrics import Closeness, closeness
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["MAX_ABS_FLOOR", "NMSE_FLOOR", "Tolerances", "judge_implementation", "tolerances"]

NMSE_FLOOR = 1e-6
MAX_ABS_FLOOR = 2e-4
# How many times the reference's own noise a runtime may be off: it may sum in an order that neither of ours has.
NOISE_FACTOR = 4.0


class Tolerances:
    """max(floor, factor × the reference's own noise), for this model on these passages."""

    def __init__(self, noise: Closeness) -> None:
        self.noise = noise
        self.nmse = max(NMSE_FLOOR, NOISE_FACTOR * noise.nmse)
        self.max_abs = max(MAX_ABS_FLOOR, NOISE_FACTOR * noise.max_abs)


def tolerances(evidence: Evidence) -> Tolerances:
    """Measured as the distance of the reference with float64 sums from the reference in float32."""
    return Tolerances(closeness(evidence.decoded_logits, evidence.noisy_logits))


def judge_implementation(evidence: Evidence) -> RungResult:
    """The logits of every watched position in full, and the runtime's own best logit and debug logits beside them."""
    limits = tolerances(evidence)
    whole = closeness(evidence.decoded_logits, evidence.runtime_logits)
    how = f"max(floor, {NOISE_FACTOR:g} × noise)"
    noise = limits.noise
    measured = [
        Measurement("NMSE, worst position", whole.nmse, limits.nmse, f"{how}, noise {noise.nmse:.1e}"),
        Measurement("max abs of logits", whole.max_abs, limits.max_abs, f"{how}, noise {noise.max_abs:.1e}"),
        Measurement("best logit as the runtime says it", _best_logit(evidence), limits.max_abs),
    ]
    debug = _debug_logits(evidence)
    if debug is not None:
        measured.append(Measurement("max abs of its own debug logits", debug, limits.max_abs))
    seen, step = evidence.rows[whole.worst_row]
    notes = [f"worst at position {step.position} of {seen.passage.name}", _positions(evidence)]
    if debug is None:
        notes.append("the runtime prints no debug logits; its output matrix is judged by its best logit alone")
    return judged("implementation", whole.rows, "positions", measured, _wrong_argmax(evidence, limits), notes)


def _best_logit(evidence: Evidence) -> float:
    claimed = np.array([step.argmax_logit for _, step in evidence.rows], dtype=np.float64)
    ours = evidence.decoded_logits[np.arange(len(claimed)), [step.argmax for _, step in evidence.rows]]
    difference = np.abs(claimed - ours)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _wrong_argmax(evidence: Evidence, limits: Tolerances) -> list[Finding]:
    """Positions at which the runtime calls a token best that its own hidden state puts clearly behind another."""
    findings = []
    for logits, (seen, step) in zip(evidence.runtime_logits, evidence.rows, strict=True):
        behind = float(logits.max() - logits[step.argmax])
        if not behind <= 2 * limits.max_abs:
            where = f"{seen.passage.name}, position {step.position}"
            expected = f"the best token, {int(logits.argmax())}"
            findings.append(Finding("error", where, expected, f"{step.argmax}, which is {behind:.3g} behind"))
    return findings


def _debug_logits(evidence: Evidence) -> float | None:
    passage = next((p for p in evidence.passages if p.request.forced), None)
    if passage is None:
        return None
    step = min(len(passage.request.forced), 4)
    request = Request(passage.request.prompt, step + 1, forced=passage.request.forced[:step])
    found = evidence.subject.runtime.logits(request, passage.position(step))
    if found is None:
        return None
    row = next(
        i
        for i, (seen, s) in enumerate(evidence.rows)
        if seen.passage is passage and s.position == passage.position(step)
    )
    return closeness(evidence.decoded_logits[row : row + 1], found[None]).max_abs


def _positions(evidence: Evidence) -> str:
    kinds = dict.fromkeys(passage.kind for passage in evidence.passages)
    counts = ", ".join(f"{kind} {sum(map(len, evidence.rows_of(kind)))}" for kind in kinds)
    return f"positions watched: {counts}"
