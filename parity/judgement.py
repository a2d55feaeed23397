"""Judgement: gathers the evidence, climbs the ladder, and binds the verdict to everything that took part."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conform.core.errors import ConformError
from conform.core.runtime import Limits
from conform.parity.candidate import Candidate, check_scope, open_candidate, require_file
from conform.parity.custody import Custody
from conform.parity.driver_check import require_runtime
from conform.parity.evidence import Evidence
from conform.parity.ladder import Rungs, climb
from conform.parity.launcher import DEFAULT_DRIVER, find_launcher
from conform.parity.progress import Progress, silent
from conform.parity.questions.sequences import Scope
from conform.parity.receipt import receipt, source_receipt
from conform.parity.reference.metrics import average
from conform.parity.rungs.file import judge_file
from conform.parity.rungs.greedy import judge_greedy
from conform.parity.rungs.implementation import judge_implementation
from conform.parity.rungs.integrity import judge_integrity
from conform.parity.rungs.likelihood import judge_likelihood
from conform.parity.rungs.quantisation import judge_quantisation
from conform.parity.rungs.sampling import judge_sampling
from conform.parity.rungs.source import judge_source
from conform.parity.rungs.tokens import judge_tokens
from conform.parity.rungs.weights import judge_weights
from conform.parity.verdict import RUNGS, Ledger, RungResult, Verdict
from conform.plugins.registry import Registry

__all__ = ["judge", "judge_runtime"]


def judge_runtime(
    model: Path,
    program: Path | None = None,
    *,
    registry: Registry,
    driver: str = DEFAULT_DRIVER,
    checkpoint: Path | None = None,
    contract: str | None = None,
    tokenizer: Path | None = None,
    scope: Scope | None = None,
    limits: Limits | None = None,
    progress: Progress = silent,
    keep_going: bool = False,
    assume_source: bool = False,
) -> Verdict:
    """The verdict on one program that runs one GGUF file; without a program, on goref, which is built for it.

    The checkpoint, when none is named, is the one beside the file; `assume_source` takes one that no other
    implementation can be asked about as conform reads it. What is wrong with the runtime stands in the
    verdict. Raises ConformError for what cannot be judged at all: a file, checkpoint, tokenizer or program that cannot
    be opened, or a prompt that cannot be asked.
    """
    scope, limits = scope or Scope(), limits or Limits()
    require_file(model)  # before goref is built for it
    launcher = find_launcher(registry, driver, program, limits)
    candidate = open_candidate(model, launcher, registry, checkpoint=checkpoint, contract=contract, tokenizer=tokenizer)
    check_scope(scope, candidate)
    return judge(candidate, scope, limits, progress, keep_going=keep_going, assume_source=assume_source)


def judge(
    candidate: Candidate,
    scope: Scope,
    limits: Limits,
    progress: Progress = silent,
    *,
    keep_going: bool = False,
    assume_source: bool = False,
) -> Verdict:
    """The verdict on an opened candidate; `keep_going` runs every rung, whatever failed before.

    Raises RuntimeDriverError for a program that is not a runtime of its driver.
    """
    with Custody() as custody:
        kept = candidate.kept(custody)
        if candidate.launcher is not None:
            require_runtime(kept.runtime, candidate.launcher)
        evidence = Evidence(kept, scope, progress, assume_source=assume_source)
        verdict = _judged(evidence, kept, custody, scope, limits, keep_going)
    return replace(verdict, model=str(candidate.file.path))  # as it was named, not the private copy


def _judged(
    evidence: Evidence, candidate: Candidate, custody: Custody, scope: Scope, limits: Limits, keep_going: bool
) -> Verdict:
    results = climb(_rungs(evidence, candidate, custody), keep_going=keep_going)
    implementation = results["implementation"]
    if implementation.status == "fail" and implementation.compared:
        results["implementation"] = _localised(implementation, evidence)
    return Verdict(
        model=str(candidate.file.path),
        rungs=tuple(results[rung] for rung in RUNGS),
        quantisation=_quantisation_ledger(evidence, results["quantisation"]),
        implementation=_implementation_ledger(evidence, results["implementation"]),
        receipt={
            **_receipt(evidence, candidate, custody, scope, limits),
            "source": source_receipt(evidence.source_check if results["source"].compared else None, results["source"]),
        },
    )


def _rungs(evidence: Evidence, candidate: Candidate, custody: Custody) -> Rungs:
    """Which evidence each rung reads; it is gathered when the rung is run."""
    return {
        "file": lambda: judge_file(evidence.file),
        "tokens": lambda: judge_tokens(evidence.tokens),
        "weights": lambda: judge_weights(evidence.weights),
        "implementation": lambda: judge_implementation(evidence.implementation),
        "source": lambda: judge_source(evidence.source),
        "quantisation": lambda: judge_quantisation(evidence.quantisation),
        "greedy": lambda: judge_greedy(evidence.greedy),
        "sampling": lambda: judge_sampling(evidence.sampling, candidate.runtime.generator),
        "likelihood": lambda: judge_likelihood(evidence.likelihood),
        "integrity": lambda: judge_integrity(custody.kept, custody.findings()),
    }


def _localised(result: RungResult, evidence: Evidence) -> RungResult:
    diverging = evidence.diverging_vector
    if diverging is None:
        return replace(result, notes=(*result.notes, "no vector of any layer diverges: look at the output matrix"))
    return replace(result, findings=(diverging.finding(), *result.findings))


def _quantisation_ledger(evidence: Evidence, result: RungResult) -> Ledger | None:
    cost = evidence.references.quantisation if result.compared else None
    return Ledger(cost.natural.mean, cost.change.nats) if cost and cost.change else None


def _implementation_ledger(evidence: Evidence, result: RungResult) -> Ledger | None:
    if not result.compared:
        return None
    return Ledger(average(evidence.comparison.kl), evidence.runtime_change.nats)


def _receipt(
    evidence: Evidence, candidate: Candidate, custody: Custody, scope: Scope, limits: Limits
) -> Mapping[str, object]:
    try:
        sequences = evidence.observation.sequences
    except ConformError:
        sequences = []
    return receipt(candidate, custody.kept, scope, limits, sequences)
