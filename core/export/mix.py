"""Mix: which quantizer stores which linear tensor, so that the error is least under a given size.

The errors are measured, not modelled. Each tensor offers a few (bytes, error) options, of which one is taken: the
multiple-choice knapsack problem, solved by dynamic programming. Every tensor starts with its smallest option; what the
others take beyond it is counted in units. Where these bytes have a large common divisor a unit is that divisor and the
solution is exact. Otherwise there are 65,536 units in all, rounding loses at most one of them for each tensor, and what
is left over is filled afterwards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import PlanError

__all__ = ["Option", "choose_mix"]

_MOST_UNITS = 1 << 16
_IMPOSSIBLE = np.inf  # the error of what does not fit


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one tensor: bytes in the file, padding included, and the weighted sum of squared errors."""

    quantizer: str
    nbytes: int
    error: float


@dataclass(frozen=True, slots=True)
class _Choice:
    """The options of one tensor, from small to large, and the units that each uses beyond the smallest."""

    options: Sequence[Option]
    units: Sequence[int]

    def fitting(self, spare: int) -> list[tuple[Option, int]]:
        """The options that use at most so many units, which are the first ones, each with its units."""
        return [(option, units) for option, units in zip(self.options, self.units, strict=True) if units <= spare]


@dataclass(frozen=True, slots=True)
class _Step:
    """A larger option for one tensor, and by how much it lowers the error for each byte that it adds."""

    name: str
    option: Option
    fall_per_byte: float


def choose_mix(options: Mapping[str, Sequence[Option]], room: int) -> dict[str, Option]:
    """One option for each tensor, of at most `room` bytes together, with the least sum of errors.

    Deterministic: ties go to the smaller option, then to the one that comes first.
    Raises PlanError when even the smallest options do not fit.
    """
    useful = {name: _useful(offered) for name, offered in options.items()}
    spare = room - sum(offered[0].nbytes for offered in useful.values())
    if spare < 0:
        raise PlanError(f"the smallest choice takes {room - spare:,} bytes, {-spare:,} more than the target leaves")
    unit = _unit(useful.values(), spare)
    choices = [_choice(offered, unit) for offered in useful.values()]
    chosen = dict(zip(useful, _solve(choices, spare // unit), strict=True))
    _fill(useful, chosen, room - sum(option.nbytes for option in chosen.values()))
    return chosen


def _useful(offered: Sequence[Option]) -> list[Option]:
    """From small to large, without any that another one of no more bytes matches in error."""
    kept: list[Option] = []
    for option in sorted(offered, key=lambda option: (option.nbytes, option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def _unit(useful: Iterable[Sequence[Option]], spare: int) -> int:
    """Bytes of a unit: what divides all that options take beyond the smallest, unless that is too fine."""
    divisor = math.gcd(*(option.nbytes - offered[0].nbytes for offered in useful for option in offered))
    return max(divisor, _rounded_up(spare, _MOST_UNITS), 1)


def _choice(offered: Sequence[Option], unit: int) -> _Choice:
    return _Choice(offered, [_rounded_up(option.nbytes - offered[0].nbytes, unit) for option in offered])


def _rounded_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _solve(choices: Sequence[_Choice], spare: int) -> list[Option]:
    """The option that each choice takes, so that all use at most `spare` units with the least sum of errors."""
    least = np.zeros(spare + 1)  # the least error of the choices so far, by the units that they may use
    picks: list[NDArray[np.uint8]] = []  # for each choice, the number of the option that `least` rests on
    for choice in choices:
        errors = np.stack([_after(least, units) + option.error for option, units in choice.fitting(spare)])
        picks.append(errors.argmin(axis=0).astype(np.uint8))  # of equal errors the first, which is the smallest option
        least = errors.min(axis=0)
    return _traced_back(choices, picks, spare)


def _after(least: NDArray[np.float64], units: int) -> NDArray[np.float64]:
    """The least errors of the choices before an option that uses so many of the units itself."""
    return np.concatenate([np.full(units, _IMPOSSIBLE), least[: len(least) - units]])


def _traced_back(choices: Sequence[_Choice], picks: Sequence[NDArray[np.uint8]], spare: int) -> list[Option]:
    """From the last choice, which may use everything, to the first, which may use what the others leave."""
    chosen: list[Option] = []
    for choice, pick in zip(reversed(choices), reversed(picks), strict=True):
        number = int(pick[spare])
        chosen.append(choice.options[number])
        spare -= choice.units[number]
    return chosen[::-1]


def _fill(useful: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> None:
    """While a larger option fits, take the one with the largest fall in error for each byte that it adds."""
    while steps := [
        _Step(name, option, (chosen[name].error - option.error) / (option.nbytes - chosen[name].nbytes))
        for name, offered in useful.items()
        for option in offered
        if 0 < option.nbytes - chosen[name].nbytes <= left
    ]:
        best = max(steps, key=lambda step: step.fall_per_byte)  # of equal steps the first
        left -= best.option.nbytes - chosen[best.name].nbytes
        chosen[best.name] = best.option
