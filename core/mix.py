"""Mix: which quantizer stores which linear tensor, so that the error is least under a given size.

The errors are measured, not modelled. Each tensor offers a few (bytes, error) points; on their lower convex hulls the
steps with the largest fall in error per byte are taken first (the Lagrangian relaxation of the multiple-choice
knapsack problem), and what room is left is filled step by step with whatever still fits.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conform.core.errors import PlanError

__all__ = ["Option", "choose_mix"]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store one tensor: bytes in the file, padding included, and the weighted sum of squared errors."""

    quantizer: str
    nbytes: int
    error: float


def choose_mix(options: Mapping[str, Sequence[Option]], room: int) -> dict[str, Option]:
    """One option for each tensor, of at most `room` bytes together, with (nearly) the least sum of errors.

    Deterministic: ties go to the tensor and the option that come first.
    Raises PlanError when even the smallest options do not fit.
    """
    chosen = {name: min(offered, key=lambda option: (option.nbytes, option.error)) for name, offered in options.items()}
    left = room - sum(option.nbytes for option in chosen.values())
    if left < 0:
        raise PlanError(f"the smallest choice takes {room - left:,} bytes, {-left:,} more than the target leaves")
    left = _climb_hulls(options, chosen, left)
    _fill(options, chosen, left)
    return chosen


def _climb_hulls(options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> int:
    steps = [
        (-_gain(smaller, larger), order, place, name, larger)
        for order, (name, offered) in enumerate(options.items())
        for place, (smaller, larger) in enumerate(_hull_steps(offered))
    ]
    blocked: set[str] = set()
    for _, _, _, name, larger in sorted(steps, key=lambda step: step[:3]):
        cost = larger.nbytes - chosen[name].nbytes
        if cost > left:
            blocked.add(name)  # its later steps build on this one
        elif name not in blocked:
            left -= cost
            chosen[name] = larger
    return left


def _fill(options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> None:
    """Take the best single step that fits, hull or not, until none does."""
    while True:
        steps = [
            (_gain(chosen[name], option), -order, name, option)
            for order, (name, offered) in enumerate(options.items())
            for option in offered
            if option.error < chosen[name].error and option.nbytes - chosen[name].nbytes <= left
        ]
        if not steps:
            return
        _, _, name, option = max(steps, key=lambda step: step[:2])
        left -= option.nbytes - chosen[name].nbytes
        chosen[name] = option


def _gain(smaller: Option, larger: Option) -> float:
    """The fall in error for each byte more."""
    return (smaller.error - larger.error) / max(larger.nbytes - smaller.nbytes, 1e-9)


def _hull_steps(offered: Sequence[Option]) -> list[tuple[Option, Option]]:
    """Neighbours on the lower convex hull of (bytes, error), from small to large, gains falling."""
    hull: list[Option] = []
    for option in sorted(offered, key=lambda option: (option.nbytes, option.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) >= 2 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], option):
            hull.pop()
        hull.append(option)
    return list(itertools.pairwise(hull))
