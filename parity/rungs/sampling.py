"""sampling: a fixed seed gives the same tokens again, and those that the runtime's own generator must give."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.core.quantizer import Float32
from conform.core.runtime import Generator, Sampling
from conform.parity.reference.sampler import Xorshift64Star, choose, nucleus
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["SampledRun", "judge_sampling"]

# What the nucleus may be wider by, in probability, because logits differ within tolerance.
_NUCLEUS_SLACK = 1e-3
_WIDEST_EDGE = 0.01


@dataclass(frozen=True, slots=True)
class SampledRun:
    """One run: the tokens drawn, the reference's logits (vocab,) and the tie at each draw, and the text of two runs."""

    name: str
    sampling: Sampling
    drawn: Sequence[int]
    logits: Sequence[Float32]
    ties: Sequence[float]
    text: bytes
    repeated: bytes


def judge_sampling(runs: Sequence[SampledRun], generator: Generator) -> RungResult:
    """Every draw of every run, reproduced from the reference's logits with the runtime's generator."""
    known = generator == "xorshift64*"
    findings: list[Finding] = []
    notes: list[str] = []
    excused = 0
    for run in runs:
        misses, ties = _reproduced(run) if known else (0, 0)
        excused += ties
        outside = list(_outside(run))
        findings += outside
        if misses and not outside and run.sampling.top_p < 1:
            # How the nucleus is drawn from is nowhere laid down; that it is kept to is what counts.
            notes.append(f"{run.name}: {misses} draws from the right nucleus, but not as ours")
        elif misses:
            expected = f"{len(run.drawn)} tokens drawn by xorshift64*"
            findings.append(Finding("error", run.name, expected, f"{misses} others"))
    findings += _repeated(runs)
    if not known:
        notes.append("its generator is unknown: runs are compared with each other and with the sampler's options only")
    compared = sum(len(run.drawn) for run in runs)
    measured = [
        Measurement("sequences that differ", len(findings), 0),
        Measurement("draws excused at an edge", excused, 1 + compared // 20),
    ]
    return judged("sampling", compared, "draws", measured, findings, notes)


def _reproduced(run: SampledRun) -> tuple[int, int]:
    """Draws that differ, and those excused because the number drawn lies on the edge between two tokens."""
    generator = Xorshift64Star(run.sampling.seed)
    misses = ties = 0
    for logits, token, tie in zip(run.logits, run.drawn, run.ties, strict=True):
        draw = choose(logits, run.sampling, generator)
        if draw.token != token:
            # How near, in probability, a draw may lie to another token for the measured difference to explain either.
            edge = min(tie / run.sampling.temperature, _WIDEST_EDGE)
            ties += draw.margin <= edge
            misses += draw.margin > edge
    return misses, ties


def _outside(run: SampledRun) -> Iterator[Finding]:
    """Tokens that the sampler's options rule out, whatever the generator is."""
    for number, (logits, token) in enumerate(zip(run.logits, run.drawn, strict=True)):
        where = f"{run.name}, token {number}"
        allowed = nucleus(logits, run.sampling, _NUCLEUS_SLACK)
        if token not in allowed:
            yield Finding("error", where, f"one of the {len(allowed)} tokens of the nucleus", str(token))
        top_k = run.sampling.top_k
        if top_k and int((logits > logits[token]).sum()) >= top_k:
            yield Finding("error", where, f"one of the {top_k} likeliest tokens", str(token))


def _repeated(runs: Sequence[SampledRun]) -> Iterator[Finding]:
    """Each run once more, unwatched: the same seed must give the same text."""
    for run in runs:
        if run.repeated != run.text:
            yield Finding("error", f"{run.name}: second run", repr(run.text[-60:]), repr(run.repeated[-60:]))
