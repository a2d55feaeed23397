"""quantisation: the checkpoint against the decoded file, both in PyTorch; what the file costs whoever runs it."""

from dataclasses import dataclass

from conform.parity.reference.metrics import Divergence
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["FileDivergence", "judge_quantisation"]


@dataclass(frozen=True, slots=True)
class FileDivergence:
    """KL(checkpoint || decoded file) over prose, and over random ids and hostile prompts; the ceiling and why it is."""

    natural: Divergence
    unnatural: Divergence
    ceiling: float
    reason: str


def judge_quantisation(seen: FileDivergence | None) -> RungResult:
    """KL divergence at every position of the prose; the other sequences are reported beside it."""
    if seen is None:
        return not_run("quantisation", "no checkpoint to compare with; give --checkpoint")
    natural, unnatural = seen.natural, seen.unnatural
    measured = [
        Measurement("mean KL in nats", natural.mean, seen.ceiling, seen.reason),
        Measurement("KL, 99th percentile", natural.p99),
        Measurement("KL, largest", natural.largest),
        Measurement("positions with another best token", 1 - natural.same_top),
    ]
    if unnatural.positions:
        measured.append(Measurement("mean KL on random ids and hostile prompts", unnatural.mean))
    return judged("quantisation", natural.positions, "positions", measured)
