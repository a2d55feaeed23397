"""Ladder: runs the rungs in order; each one gates those that would mean nothing without it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from conform.core.errors import ConformError
from conform.core.runtime import Limits, RuntimeFault
from conform.parity.evidence import Evidence, Subject
from conform.parity.progress import Progress
from conform.parity.questions.sequences import Scope
from conform.parity.receipt import receipt
from conform.parity.reference.metrics import divergences, summary
from conform.parity.rungs.file import judge_file
from conform.parity.rungs.greedy import judge_greedy
from conform.parity.rungs.implementation import judge_implementation
from conform.parity.rungs.likelihood import judge_likelihood, quantisation_change, runtime_change
from conform.parity.rungs.localise import first_departure
from conform.parity.rungs.quantisation import NATURAL, divergence_over, judge_quantisation
from conform.parity.rungs.sampling import judge_sampling
from conform.parity.rungs.tokens import judge_tokens
from conform.parity.rungs.weights import judge_weights
from conform.parity.verdict import RUNGS, Ledger, RungName, RungResult, Verdict, faulted, not_run

__all__ = ["judge"]

_JUDGES: Mapping[RungName, Callable[[Evidence], RungResult]] = {
    "file": judge_file,
    "tokens": judge_tokens,
    "weights": judge_weights,
    "implementation": judge_implementation,
    "quantisation": judge_quantisation,
    "greedy": judge_greedy,
    "sampling": judge_sampling,
    "likelihood": judge_likelihood,
}
# A rung that failed makes those behind it meaningless; one that could not run for want of a checkpoint does not.
_NEEDS: Mapping[RungName, tuple[RungName, ...]] = {
    "file": (),
    "tokens": ("file",),
    "weights": ("file",),
    "implementation": ("file", "tokens"),
    "quantisation": ("file",),
    "greedy": ("implementation",),
    "sampling": ("implementation",),
    "likelihood": ("implementation", "quantisation"),
}


def judge(subject: Subject, scope: Scope, limits: Limits, progress: Progress, *, keep_going: bool = False) -> Verdict:
    """The verdict on one runtime with one file; `keep_going` runs every rung, whatever failed before."""
    evidence = Evidence(subject, scope, progress)
    results: dict[RungName, RungResult] = {}
    for rung in RUNGS:
        failed = [need for need in _NEEDS[rung] if need in results and _blocks(results[need])]
        if failed and not keep_going:
            results[rung] = not_run(rung, f"{' and '.join(failed)} failed")
        else:
            damaged = "file" in results and not results["file"].passed
            results[rung] = _run(rung, evidence, damaged)
    if results["implementation"].status == "fail" and results["implementation"].compared:
        results["implementation"] = _localised(results["implementation"], evidence)
    quantisation, implementation = _ledgers(evidence, results)
    return Verdict(
        model=str(subject.file.path),
        rungs=tuple(results[rung] for rung in RUNGS),
        quantisation=quantisation,
        implementation=implementation,
        receipt=_receipt(evidence, limits),
    )


def _blocks(result: RungResult) -> bool:
    return result.status == "fail" or "failed" in result.reason


def _run(rung: RungName, evidence: Evidence, damaged: bool) -> RungResult:
    try:
        return _JUDGES[rung](evidence)
    except RuntimeFault as fault:
        return faulted(rung, fault)
    except ConformError as error:
        return RungResult(rung, "fail", reason=str(error))
    except (ValueError, IndexError, KeyError, RuntimeError) as error:
        if not damaged:
            raise
        # The file rung has said what is wrong with the file; here it only cannot be computed with.
        return RungResult(rung, "fail", reason=f"the file cannot be computed with: {str(error).splitlines()[0]}")


def _localised(result: RungResult, evidence: Evidence) -> RungResult:
    departure = first_departure(evidence)
    if departure is None:
        return replace(result, notes=(*result.notes, "no vector of any layer departs: look at the output matrix"))
    return replace(result, findings=(departure.finding(), *result.findings))


def _ledgers(evidence: Evidence, results: Mapping[RungName, RungResult]) -> tuple[Ledger | None, Ledger | None]:
    quantisation = implementation = None
    if results["quantisation"].compared:
        change = quantisation_change(evidence)
        kl = divergence_over(evidence, NATURAL).mean
        quantisation = Ledger(kl, change[0]) if change else None
    if results["implementation"].compared:
        kl = summary(*divergences(evidence.decoded_logits, evidence.runtime_logits)).mean
        implementation = Ledger(kl, runtime_change(evidence)[0])
    return quantisation, implementation


def _receipt(evidence: Evidence, limits: Limits) -> dict[str, object]:
    try:
        passages = evidence.passages
    except ConformError:
        passages = []
    return receipt(evidence.subject, evidence.scope, limits, passages)
