"""greedy: free-running generation against the reference, token by token; a mismatch is excused at a near-tie only."""

import numpy as np

from conform.contract.finding import Finding
from conform.core.runtime import Request
from conform.parity.evidence import Evidence
from conform.parity.questions.sequences import Observed
from conform.parity.rungs.implementation import agreement
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["judge_greedy"]


def judge_greedy(evidence: Evidence) -> RungResult:
    """The reference follows the runtime's own tokens: after an excused mismatch both go on from the same text."""
    measured_all = agreement(evidence)
    findings: list[Finding] = []
    excused = compared = 0
    passages = [seen for seen in evidence.observed if seen.passage.kind == "greedy"]
    for seen, rows in zip(passages, evidence.rows_of("greedy"), strict=True):
        chosen = _chosen(seen)
        compared += len(chosen)
        for number, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            logits = evidence.decoded_logits[row]
            best = int(logits.argmax())
            gap = float(logits[best] - logits[token])
            if token != best and gap <= measured_all.tie(row):
                excused += 1
            elif token != best:
                where = f"{seen.passage.name}, token {number}"
                findings.append(Finding("error", where, f"token {best}", f"{token}, {gap:.3g} behind in the reference"))
        findings += _text_findings(evidence, seen, chosen)
    wrong = len(findings)
    measured = [
        Measurement("mismatches", wrong, 0),
        Measurement("mismatches excused at a tie", excused, compared // 10),
    ]
    return judged("greedy", compared, "tokens", measured, findings)


def _chosen(seen: Observed) -> list[int]:
    """The token chosen at each step: the input of the next, and the best of the last."""
    return [*(step.token for step in seen.steps[1:]), seen.steps[-1].argmax]


def _text_findings(evidence: Evidence, seen: Observed, chosen: list[int]) -> list[Finding]:
    """The text of the run, of the same run unwatched, and of the same tokens when they are forced, must be one."""
    runtime, request = evidence.subject.runtime, seen.passage.request
    forced = Request(request.prompt, request.max_tokens, forced=tuple(chosen))
    texts = evidence.side_by_side("generating", [request, forced], lambda r: runtime.answer(r).text)
    kinds = ("the same run, unwatched", "the same tokens, forced")
    findings = [
        Finding("error", f"{seen.passage.name}: text of {kind}", repr(seen.text[-60:]), repr(text[-60:]))
        for kind, text in zip(kinds, texts, strict=True)
        if text != seen.text
    ]
    if not np.all([step.argmax == token for step, token in zip(seen.steps, chosen, strict=True)]):
        findings.append(
            Finding(
                "error", seen.passage.name, "the best token at every step", "another one", "its sampler is not greedy"
            )
        )
    return findings
