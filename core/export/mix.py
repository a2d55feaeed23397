"""Mix: which quantizer stores which linear tensor, so that the error is least under a given size.

The errors are measured, not modelled. Each tensor offers a few (bytes, error) points, of which one is taken: the
multiple-choice knapsack problem, solved by dynamic programming over the bytes beyond the smallest choice. These are
counted in units; where the sizes have a large common divisor the solution is exact, and otherwise at most a unit for
each tensor is lost, of 65,536 units in all, and filled again afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import PlanError

__all__ = ["Option", "choose_mix"]

_MOST_UNITS = 1 << 16


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one tensor: bytes in the file, padding included, and the weighted sum of squared errors."""

    quantizer: str
    nbytes: int
    error: float


def choose_mix(options: Mapping[str, Sequence[Option]], room: int) -> dict[str, Option]:
    """One option for each tensor, of at most `room` bytes together, with the least sum of errors.

    Deterministic: ties go to the smaller option, then to the one that comes first.
    Raises PlanError when even the smallest options do not fit.
    """
    useful = {name: _useful(offered) for name, offered in options.items()}
    left = room - sum(offered[0].nbytes for offered in useful.values())
    if left < 0:
        raise PlanError(f"the smallest choice takes {room - left:,} bytes, {-left:,} more than the target leaves")
    chosen = _solve(useful, left)
    _fill(useful, chosen, room - sum(option.nbytes for option in chosen.values()))
    return chosen


def _useful(offered: Sequence[Option]) -> list[Option]:
    """From small to large, without any that another one of no more bytes matches in error."""
    kept: list[Option] = []
    for option in sorted(offered, key=lambda option: (option.nbytes, option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def _solve(useful: Mapping[str, Sequence[Option]], left: int) -> dict[str, Option]:
    """The best choice whose bytes beyond the smallest, rounded up to whole units, do not exceed `left`."""
    extra = {name: [option.nbytes - offered[0].nbytes for option in offered] for name, offered in useful.items()}
    divisor = math.gcd(*(cost for costs in extra.values() for cost in costs)) or 1
    unit = max(divisor, -(-left // _MOST_UNITS))
    units = left // unit
    least = np.zeros(units + 1)  # of all tensors so far, by the units that they may take
    picks: list[NDArray[np.uint8]] = []
    for name, offered in useful.items():
        best = np.full(units + 1, np.inf)
        pick = np.zeros(units + 1, np.uint8)
        for number, option in enumerate(offered):
            cost = -(-extra[name][number] // unit)
            if cost > units:
                break
            error = least[: units + 1 - cost] + option.error
            better = error < best[cost:]
            best[cost:][better] = error[better]
            pick[cost:][better] = number
        least = best
        picks.append(pick)
    return _trace_back(useful, extra, picks, unit)


def _trace_back(
    useful: Mapping[str, Sequence[Option]],
    extra: Mapping[str, Sequence[int]],
    picks: Sequence[NDArray[np.uint8]],
    unit: int,
) -> dict[str, Option]:
    chosen: dict[str, Option] = {}
    units = -1
    for name, pick in zip(reversed(list(useful)), reversed(picks), strict=True):
        number = int(pick[units])
        chosen[name] = useful[name][number]
        units = (len(pick) - 1 if units < 0 else units) + extra[name][number] // -unit
    return {name: chosen[name] for name in useful}


def _fill(useful: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> None:
    """Take the step with the largest fall in error for each byte that fits, until none does."""
    while True:
        steps = [
            ((chosen[name].error - option.error) / (option.nbytes - chosen[name].nbytes), -order, name, option)
            for order, (name, offered) in enumerate(useful.items())
            for option in offered
            if 0 < option.nbytes - chosen[name].nbytes <= left
        ]
        if not steps:
            return
        _, _, name, option = max(steps, key=lambda step: step[:2])
        left -= option.nbytes - chosen[name].nbytes
        chosen[name] = option
