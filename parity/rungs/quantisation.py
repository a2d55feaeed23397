"""quantisation: the checkpoint against the decoded file, both in PyTorch; what the file costs whoever runs it."""

import numpy as np

from conform.parity.evidence import Evidence
from conform.parity.questions.sequences import PassageKind
from conform.parity.reference.metrics import Divergence, divergences, summary
from conform.parity.rungs.ceilings import kl_ceiling
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["NATURAL", "divergence_over", "judge_quantisation"]

NATURAL: tuple[PassageKind, ...] = ("text", "long")
_UNNATURAL: tuple[PassageKind, ...] = ("random", "prompt")
# Positions whose logits over the whole vocabulary are held at a time.
_POSITIONS = 128


def judge_quantisation(evidence: Evidence) -> RungResult:
    """KL divergence at every position of the natural passages; the others are reported beside it."""
    source = evidence.subject.source
    if source is None:
        return not_run("quantisation", "no checkpoint to compare with; give --checkpoint")
    natural = divergence_over(evidence, NATURAL)
    ceiling, reason = kl_ceiling(evidence.subject.file, source.contract)
    measured = [
        Measurement("mean KL in nats", natural.mean, ceiling, reason),
        Measurement("KL, 99th percentile", natural.p99),
        Measurement("KL, largest", natural.largest),
        Measurement("positions with another best token", 1 - natural.same_top),
    ]
    unnatural = divergence_over(evidence, _UNNATURAL)
    if unnatural.positions:
        measured.append(Measurement("mean KL on random ids and hostile prompts", unnatural.mean))
    return judged("quantisation", natural.positions, "positions", measured)


def divergence_over(evidence: Evidence, kinds: tuple[PassageKind, ...]) -> Divergence:
    """KL(source || decoded) at every position of the passages of these kinds."""
    chosen = [i for i, passage in enumerate(evidence.known) if passage.kind in kinds]
    original, decoded = (evidence.original, evidence.decoded)
    if original is None or evidence.original_known is None or not chosen:
        return summary(np.empty(0), np.empty(0, dtype=bool))
    expected = np.concatenate([evidence.original_known[i] for i in chosen])
    found = np.concatenate([evidence.decoded_known[i] for i in chosen])
    parts = [
        divergences(original.logits(expected[rows]), decoded.logits(found[rows]))
        for start in range(0, len(expected), _POSITIONS)
        for rows in [slice(start, start + _POSITIONS)]
    ]
    return summary(np.concatenate([kl for kl, _ in parts]), np.concatenate([same for _, same in parts]))
