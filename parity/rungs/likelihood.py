"""likelihood: how surprised checkpoint, decoded file and runtime are by held-out prose, in nats per token."""

import math
from dataclasses import dataclass

from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["LikelihoodChange", "LikelihoodChanges", "RuntimeChange", "judge_likelihood"]

_FLOOR = 1e-4
_NOISE_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class RuntimeChange:
    """NLL(runtime) - NLL(decoded file) over `tokens`, and how far the reference's own noise moves it."""

    nats: float
    noise: float
    tokens: int


@dataclass(frozen=True, slots=True)
class LikelihoodChange:
    """NLL(decoded file) - NLL(checkpoint) over `tokens`, at least one, and NLL(checkpoint) itself."""

    nats: float
    tokens: int
    checkpoint: float


@dataclass(frozen=True, slots=True)
class LikelihoodChanges:
    """Of the runtime at the watched positions, and of the file with its KL ceiling; None without a checkpoint."""

    runtime: RuntimeChange
    file: LikelihoodChange | None = None
    ceiling: float = 0.0


def judge_likelihood(changes: LikelihoodChanges) -> RungResult:
    """Runtime against decoded file at the watched positions, decoded file against checkpoint at all of them."""
    runtime, file = changes.runtime, changes.file
    tolerance = max(_FLOOR, _NOISE_FACTOR * runtime.noise)
    how = f"max(floor, {_NOISE_FACTOR:g} × noise), noise {runtime.noise:.1e}"
    measured = [Measurement("runtime against decoded file", abs(runtime.nats), tolerance, how)]
    if file is not None:
        # A log ratio of mean KL has a standard deviation of about sqrt(2 KL); three of them over the mean's root.
        bound = changes.ceiling + 3 * math.sqrt(2 * changes.ceiling / file.tokens)
        over = f"over {file.tokens} tokens"
        measured.append(Measurement("decoded file against checkpoint", abs(file.nats), bound, over))
        measured.append(Measurement("checkpoint's own negative log-likelihood", file.checkpoint))
    return judged("likelihood", runtime.tokens, "tokens", measured)
