"""Plan: how hard the search of iq2_* and iq3_* works for each effort."""

from dataclasses import dataclass

from conform.core.quantizer import Effort

__all__ = ["SearchPlan", "search_plan"]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Sweeps over all groups: one, or `refits`, from each of `starts`, then `tries` for each of `rounds` values of d.

    A start (a, b) is the scale a · mean + b · maximum of a sub-block's magnitudes. A sweep looks at `first` or `last`
    (after the starts) neighbours of each group.
    """

    starts: tuple[tuple[float, float], ...]
    tries: int
    first: int = 16
    last: int = 16
    refits: int = 1
    rounds: int = 1


_STARTS = {
    "iq2_xxs": ((0.17, 0.09), (0.24, 0.03), (0.17, 0.12), (0.17, 0.06), (0.7, 0), (0.25, 0), (0.31, 0.12), (0, 0.133)),
    "iq2_xs": ((0.1, 0.12), (0.17, 0.06), (0.24, 0.12), (0.17, 0.03), (0, 0.294), (0.7, 0), (0.1, 0.09), (0.36, 0)),
    "iq2_s": ((0.1, 0.12), (0.45, 0), (0.1, 0.09), (0, 0.217), (0.65, 0), (0.1, 0.06), (0, 0.25), (0.17, 0.12)),
    "iq3_xxs": (
        *((0, 0.059), (0.1, 0.03), (0, 0.071), (0, 0.091), (0.07, 0.03), (0.1, 0.015), (0.07, 0.045)),
        *((0, 0.0625), (0.24, 0)),
    ),
    "iq3_s": (
        *((0, 0.0625), (0.1, 0.03), (0, 0.071), (0.1, 0.045), (0.07, 0.03), (0, 0.083), (0.7, 0)),
        *((0.07, 0.045), (0.13, 0.015)),
    ),
}
"""Found greedily, each the one that helps most beside those before it: over gaussian, Laplace, Student-t3 and uniform
values, weighted and not. (0.7, 0) is there for rows of one magnitude, which want the lowest level."""

_DEFAULT = {
    "iq2_xxs": SearchPlan(_STARTS["iq2_xxs"][:5], tries=3),
    "iq2_xs": SearchPlan(_STARTS["iq2_xs"][:6], tries=3, last=32),
    "iq2_s": SearchPlan(_STARTS["iq2_s"][:4], tries=3),
    "iq3_xxs": SearchPlan(_STARTS["iq3_xxs"][:7], tries=3),
    "iq3_s": SearchPlan(_STARTS["iq3_s"][:7], tries=3),
}


def search_plan(grid: str, effort: Effort) -> SearchPlan:
    """What the search for points of that grid does at that effort."""
    if effort == "fast":
        return SearchPlan(_STARTS[grid][:3], tries=1)
    if effort == "best":
        return SearchPlan(_STARTS[grid], tries=4, first=64, last=64, refits=2, rounds=3)
    return _DEFAULT[grid]
