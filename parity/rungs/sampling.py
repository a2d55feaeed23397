"""sampling: a fixed seed gives the same tokens again, and those that the runtime's own generator must give."""

from collections.abc import Iterator

from conform.contract.finding import Finding
from conform.core.quantizer import Float32
from conform.core.runtime import Request
from conform.parity.evidence import Evidence
from conform.parity.questions.sequences import Observed
from conform.parity.reference.sampler import Xorshift64Star, choose, nucleus
from conform.parity.rungs.implementation import Agreement, agreement
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["judge_sampling"]

# What the nucleus may be wider by, in probability, because logits differ within tolerance.
_NUCLEUS_SLACK = 1e-3
_WIDEST_EDGE = 0.01


def judge_sampling(evidence: Evidence) -> RungResult:
    """Every draw of every passage, reproduced from the reference's logits with the runtime's generator."""
    measured_all = agreement(evidence)
    known = evidence.subject.runtime.generator == "xorshift64*"
    findings: list[Finding] = []
    notes: list[str] = []
    excused = compared = 0
    passages = [seen for seen in evidence.observed if seen.passage.kind == "sampled"]
    for seen, rows in zip(passages, evidence.rows_of("sampled"), strict=True):
        logits = evidence.decoded_logits[rows]
        drawn = [step.token for step in seen.steps[1:]]
        compared += len(drawn)
        misses, ties = (
            _reproduced(seen, logits, drawn, [_edge(measured_all, row, seen) for row in rows]) if known else (0, 0)
        )
        excused += ties
        outside = list(_outside(seen, logits, drawn))
        findings += outside
        if misses and not outside and seen.passage.request.sampling.top_p < 1:
            # How the nucleus is drawn from is nowhere laid down; that it is kept to is what counts.
            notes.append(f"{seen.passage.name}: {misses} draws from the right nucleus, but not as ours")
        elif misses:
            where, found = seen.passage.name, f"{misses} others"
            findings.append(Finding("error", where, f"{len(drawn)} tokens drawn by xorshift64*", found))
    findings += _repeated(evidence, passages)
    if not known:
        notes.append("its generator is unknown: runs are compared with each other and with the sampler's options only")
    measured = [
        Measurement("passages that differ", len(findings), 0),
        Measurement("draws excused at an edge", excused, 1 + compared // 20),
    ]
    return judged("sampling", compared, "draws", measured, findings, notes)


def _edge(measured: Agreement, row: int, seen: Observed) -> float:
    """How near, in probability, a draw may lie to another token before the measured difference can explain either."""
    return min(measured.tie(row) / seen.passage.request.sampling.temperature, _WIDEST_EDGE)


def _reproduced(seen: Observed, logits: Float32, drawn: list[int], slack: list[float]) -> tuple[int, int]:
    """Draws that differ, and those excused because the number drawn lies on the edge between two tokens."""
    generator = Xorshift64Star(seen.passage.request.sampling.seed)
    misses = ties = 0
    for row, token, edge in zip(logits, drawn, slack, strict=False):
        draw = choose(row, seen.passage.request.sampling, generator)
        if draw.token != token:
            ties += draw.margin <= edge
            misses += draw.margin > edge
    return misses, ties


def _outside(seen: Observed, logits: Float32, drawn: list[int]) -> Iterator[Finding]:
    """Tokens that the sampler's options rule out, whatever the generator is."""
    sampling = seen.passage.request.sampling
    for number, (row, token) in enumerate(zip(logits, drawn, strict=False)):
        allowed = nucleus(row, sampling, _NUCLEUS_SLACK)
        where = f"{seen.passage.name}, token {number}"
        if token not in allowed:
            yield Finding("error", where, f"one of the {len(allowed)} tokens of the nucleus", str(token))
        if sampling.top_k and int((row > row[token]).sum()) >= sampling.top_k:
            yield Finding("error", where, f"one of the {sampling.top_k} likeliest tokens", str(token))


def _repeated(evidence: Evidence, passages: list[Observed]) -> Iterator[Finding]:
    """Each run once more, unwatched: the same seed must give the same text."""
    runtime = evidence.subject.runtime
    requests: list[Request] = [seen.passage.request for seen in passages]
    texts = evidence.side_by_side("sampling again", requests, lambda request: runtime.answer(request).text)
    for seen, text in zip(passages, texts, strict=True):
        if text != seen.text:
            yield Finding("error", f"{seen.passage.name}: second run", repr(seen.text[-60:]), repr(text[-60:]))
