"""implementation: PyTorch over the decoded file against the runtime, teacher-forced, at every watched position."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conform.contract.finding import Finding
from conform.parity.evidence import Evidence
from conform.parity.reference.metrics import Closeness, closeness
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["MAX_ABS_FLOOR", "NMSE_FLOOR", "Agreement", "agreement", "judge_implementation"]

NMSE_FLOOR = 1e-6
MAX_ABS_FLOOR = 2e-4
# How many times the reference's own noise a runtime may be off: it may sum in an order that neither of ours has.
NOISE_FACTOR = 4.0
# Three positions in four.
MOST = 0.75


@dataclass(frozen=True, slots=True)
class Limit:
    """One figure of the runtime, the same figure of the reference's own noise, and the tolerance that follows."""

    measured: float
    noise: float
    floor: float

    @property
    def tolerance(self) -> float:
        """max(floor, factor × noise)."""
        return max(self.floor, NOISE_FACTOR * self.noise)

    def measurement(self, name: str) -> Measurement:
        """The figure beside its tolerance and where that comes from."""
        how = f"floor; noise {self.noise:.1e}" if self.tolerance == self.floor else f"{NOISE_FACTOR:g} × noise"
        return Measurement(name, self.measured, self.tolerance, how)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Runtime and reference noise, each against the reference with float64 sums, row by row; `judged` says which count.

    Activations quantised to int8 can flip by one code where two right computations differ in the last bit. Few
    positions do, and the worst of them is judged by how far flips of the reference reach (`flips`, None where no
    activation is quantised); three positions in four must agree as if there were none.
    """

    runtime: Closeness
    noise: Closeness
    flips: Closeness | None
    judged: NDArray[np.bool_]

    def nmse(self, share: float) -> Limit:
        """The NMSE that this share of the positions stays below."""
        noises = [self._quantile(noise.nmse, share) for noise in self._noises(share)]
        return Limit(self._quantile(self.runtime.nmse, share), max(noises), NMSE_FLOOR)

    def max_abs(self, share: float) -> Limit:
        """The largest difference of a logit that this share of the positions stays below."""
        noises = [self._quantile(noise.max_abs, share) for noise in self._noises(share)]
        return Limit(self._quantile(self.runtime.max_abs, share), max(noises), MAX_ABS_FLOOR)

    @property
    def worst_row(self) -> int:
        """The judged row of the largest NMSE."""
        return int(np.argmax(np.where(self.judged, self.runtime.nmse, -1.0)))

    def _quantile(self, values: NDArray[np.float64], share: float) -> float:
        chosen = values[self.judged]
        return float(np.quantile(chosen, share, method="higher")) if len(chosen) else float("inf")

    def _noises(self, share: float) -> list[Closeness]:
        return [self.noise] if share < 1 or self.flips is None else [self.noise, self.flips]

    def tie(self, row: int) -> float:
        """The largest gap between two logits that the difference measured at this row can close."""
        measured = max(float(self.runtime.max_abs[row]), MAX_ABS_FLOOR)
        return 2 * min(measured, self.max_abs(1.0).tolerance)


def agreement(evidence: Evidence) -> Agreement:
    """Measured over every watched position; sampled runs are judged by their own rung."""
    perturbed = evidence.perturbed_logits
    return Agreement(
        closeness(evidence.decoded_logits, evidence.runtime_logits),
        closeness(evidence.decoded_logits, evidence.noisy_logits),
        None if perturbed is None else closeness(evidence.decoded_logits, perturbed),
        np.array([seen.passage.kind != "sampled" for seen, _ in evidence.rows]),
    )


def judge_implementation(evidence: Evidence) -> RungResult:
    """The logits of every watched position in full, and the runtime's own best logit and debug logits beside them."""
    measured_all = agreement(evidence)
    worst = measured_all.max_abs(1.0).tolerance
    measured = [
        measured_all.nmse(MOST).measurement("NMSE of logits, three positions in four"),
        measured_all.nmse(1.0).measurement("NMSE of logits, worst position"),
        measured_all.max_abs(MOST).measurement("max abs of logits, three positions in four"),
        measured_all.max_abs(1.0).measurement("max abs of logits, worst position"),
        Measurement("its best logit against its own hidden state", _best_logit(evidence), MAX_ABS_FLOOR, "floor"),
    ]
    debug = _debug_logits(evidence)
    if debug is not None:
        measured.append(Measurement("its debug logits, worst of the vocabulary", debug, worst))
    seen, step = evidence.rows[measured_all.worst_row]
    notes = [f"worst at position {step.position} of {seen.passage.name}", _positions(evidence)]
    if debug is None:
        notes.append("the runtime prints no debug logits; its output matrix is judged by its best logit alone")
    return judged(
        "implementation", int(measured_all.judged.sum()), "positions", measured, _wrong_argmax(evidence), notes
    )


def _best_logit(evidence: Evidence) -> float:
    claimed = np.array([step.argmax_logit for _, step in evidence.rows], dtype=np.float64)
    ours = evidence.runtime_logits[np.arange(len(claimed)), [step.argmax for _, step in evidence.rows]]
    difference = np.abs(claimed - ours)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _wrong_argmax(evidence: Evidence) -> list[Finding]:
    """Positions at which the runtime calls a token best that its own hidden state puts clearly behind another."""
    findings = []
    for logits, (seen, step) in zip(evidence.runtime_logits, evidence.rows, strict=True):
        behind = float(logits.max() - logits[step.argmax])
        if not behind <= 2 * MAX_ABS_FLOOR:
            where = f"{seen.passage.name}, position {step.position}"
            expected = f"the best token, {int(logits.argmax())}"
            findings.append(Finding("error", where, expected, f"{step.argmax}, which is {behind:.3g} behind"))
    return findings


def _debug_logits(evidence: Evidence) -> float | None:
    """The largest difference of the runtime's own logits over the vocabulary, at the end of one prompt."""
    of_prompts = [rows[-1] for kind in ("prompt", "random") for rows in evidence.rows_of(kind)]
    chosen = next(iter(of_prompts), None)
    if chosen is None:
        return None
    seen, step = evidence.rows[chosen]
    new_tokens = step.position - seen.passage.position(0) + 1
    request = replace(seen.passage.request, max_tokens=new_tokens, forced=seen.passage.request.forced[: new_tokens - 1])
    found = evidence.subject.runtime.logits(request, step.position)
    if found is None:
        return None
    return float(closeness(evidence.decoded_logits[chosen : chosen + 1], found[None]).max_abs[0])


def _positions(evidence: Evidence) -> str:
    kinds = dict.fromkeys(passage.kind for passage in evidence.passages)
    counts = ", ".join(f"{kind} {sum(map(len, evidence.rows_of(kind)))}" for kind in kinds)
    return f"positions watched: {counts}"
