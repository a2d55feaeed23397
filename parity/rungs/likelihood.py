"""likelihood: how surprised checkpoint, decoded file and runtime are by held-out prose, in nats per token."""

import math

import numpy as np

from conform.parity.evidence import Evidence
from conform.parity.questions.sequences import Observed, PassageKind
from conform.parity.reference.metrics import likelihood
from conform.parity.rungs.ceilings import kl_ceiling
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["judge_likelihood", "quantisation_change", "runtime_change"]

_FLOOR = 1e-4
_NOISE_FACTOR = 4.0


def judge_likelihood(evidence: Evidence) -> RungResult:
    """Runtime against decoded file at the watched positions, decoded file against checkpoint at all of them."""
    runtime, noise, count = runtime_change(evidence)
    tolerance = max(_FLOOR, _NOISE_FACTOR * noise)
    how = f"max(floor, {_NOISE_FACTOR:g} × noise), noise {noise:.1e}"
    measured = [Measurement("runtime against decoded file", abs(runtime), tolerance, how)]
    change = quantisation_change(evidence)
    source = evidence.subject.source
    if change is not None and source is not None:
        nats, positions, own = change
        ceiling, _ = kl_ceiling(evidence.subject.file, source.contract)
        # A log ratio of mean KL has a standard deviation of about sqrt(2 KL); three of them over the mean's root.
        bound = ceiling + 3 * math.sqrt(2 * ceiling / positions)
        measured.append(Measurement("decoded file against checkpoint", abs(nats), bound, f"over {positions} tokens"))
        measured.append(Measurement("checkpoint's own negative log-likelihood", own))
    return judged("likelihood", count, "tokens", measured)


def runtime_change(evidence: Evidence) -> tuple[float, float, int]:
    """NLL(runtime) - NLL(decoded), the same for the reference's own noise, and the number of tokens."""
    for seen, rows in zip(_of_kind(evidence, "text"), evidence.rows_of("text"), strict=True):
        following = np.array([seen.ids[step.position + 1] for step in seen.steps[:-1]], dtype=np.int64)
        ours, noisy, theirs = (
            likelihood(logits[rows[:-1]], following)
            for logits in (evidence.decoded_logits, evidence.noisy_logits, evidence.runtime_logits)
        )
        return theirs - ours, abs(noisy - ours), len(following)
    return float("inf"), 0.0, 0


def quantisation_change(evidence: Evidence) -> tuple[float, int, float] | None:
    """NLL(decoded) - NLL(checkpoint) over the longest prose, the number of tokens, and NLL(checkpoint)."""
    if evidence.original is None or evidence.original_known is None:
        return None
    prose = [i for i, passage in enumerate(evidence.known) if passage.kind in ("text", "long")]
    if not prose:
        return None
    longest = max(prose, key=lambda i: len(evidence.known[i].ids))
    following = np.array(evidence.known[longest].ids[1:], dtype=np.int64)
    own = likelihood(evidence.original.logits(evidence.original_known[longest][:-1]), following)
    decoded = likelihood(evidence.decoded.logits(evidence.decoded_known[longest][:-1]), following)
    return decoded - own, len(following), own


def _of_kind(evidence: Evidence, kind: PassageKind) -> list[Observed]:
    return [seen for seen in evidence.observed if seen.passage.kind == kind]
