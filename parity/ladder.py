"""Ladder: climbs the rungs in order; each one gates those that would mean nothing without it."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from conform.core.errors import ConformError
from conform.core.runtime import RuntimeFault
from conform.parity.verdict import RUNGS, RungName, RungResult, blocked, faulted

__all__ = ["Rungs", "climb"]

Rungs: TypeAlias = Mapping[RungName, Callable[[], RungResult]]
"""What gathers the evidence of a rung and judges it; each may raise RuntimeFault or ConformError."""

# A rung that failed makes those behind it meaningless; one that could not run for want of a checkpoint does not.
_NEEDS: Mapping[RungName, tuple[RungName, ...]] = {
    "file": (),
    "tokens": ("file",),
    "weights": ("file",),
    "implementation": ("file", "tokens"),
    "source": (),
    "quantisation": ("file", "source"),
    "greedy": ("implementation",),
    "sampling": ("implementation",),
    "likelihood": ("implementation", "quantisation"),
    "integrity": (),
}


def climb(rungs: Rungs, *, keep_going: bool = False) -> dict[RungName, RungResult]:
    """The result of every rung; `keep_going` runs each, whatever failed before."""
    results: dict[RungName, RungResult] = {}
    for rung in RUNGS:
        broken = [results[need] for need in _NEEDS[rung] if results[need].blocks]
        if broken and not keep_going:
            results[rung] = blocked(rung, broken)
        else:
            damaged = "file" in results and not results["file"].passed
            results[rung] = _judged(rung, rungs[rung], damaged)
    return results


def _judged(rung: RungName, judge: Callable[[], RungResult], damaged: bool) -> RungResult:
    try:
        return judge()
    except RuntimeFault as fault:
        return faulted(rung, fault)
    except ConformError as error:
        return RungResult(rung, "fail", reason=str(error))
    except (ValueError, IndexError, KeyError, RuntimeError) as error:
        if not damaged:
            raise
        # The file rung has said what is wrong with the file; here it only cannot be computed with.
        return RungResult(rung, "fail", reason=f"the file cannot be computed with: {str(error).splitlines()[0]}")
