"""Settings: how hard the search of iq2_* and iq3_* works at each effort."""

from dataclasses import dataclass

from conform.core.quantizer import Effort

__all__ = ["SearchSettings", "search_settings"]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a search tries. A sweep finds the best grid point of every group, given a scale for each sub-block."""

    starts: tuple[tuple[float, float], ...]
    """Where to begin: (a, b) is the scale a · mean + b · maximum of a sub-block's magnitudes."""
    tries: int
    """4-bit scales tried for each sub-block, one sweep each, once d is chosen."""
    first_neighbours: int = 16
    """Grid points that the sweeps from the starts score for each group."""
    last_neighbours: int = 16
    """Grid points that the sweeps at 4-bit scales score."""
    refits: int = 1
    """Sweeps from each start, each from the scale that fits best what the one before it found."""
    rounds: int = 1
    """Values of d tried, each fitted to what was found with the one before it."""


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
    "iq2_xxs": SearchSettings(_STARTS["iq2_xxs"][:5], tries=3),
    "iq2_xs": SearchSettings(_STARTS["iq2_xs"][:6], tries=3, last_neighbours=32),
    "iq2_s": SearchSettings(_STARTS["iq2_s"][:4], tries=3),
    "iq3_xxs": SearchSettings(_STARTS["iq3_xxs"][:7], tries=3),
    "iq3_s": SearchSettings(_STARTS["iq3_s"][:7], tries=3),
}


def search_settings(grid: str, effort: Effort) -> SearchSettings:
    """The settings of the search for points of that grid at that effort."""
    if effort == "fast":
        return SearchSettings(_STARTS[grid][:3], tries=1)
    if effort == "best":
        return SearchSettings(_STARTS[grid], tries=4, first_neighbours=64, last_neighbours=64, refits=2, rounds=3)
    return _DEFAULT[grid]
