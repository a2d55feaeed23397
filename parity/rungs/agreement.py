"""Agreement: how near a runtime comes to the reference, and how near it must, which the reference's own noise decides.

Two correct programs do not print the same logits: they add the same products in another order and width. What this
alone changes is measured. The reference runs once with sums in float64 and once in float32 throughout, and the
distance between the two is the noise. A runtime may add in an order that neither run has, so several times the noise
must pass; and where the noise is tiny a floor does:

    tolerance = max(floor, NOISE_FACTOR × noise)

Distances are per position. They are judged at the worst position and at three positions in four: the figure that this
share of the positions stays below, of the runtime and of the noise alike.

Activations quantised to int8 need one thing more. A value on the edge between two codes is rounded up by one correct
program and down by another, and then differs by a whole code. Few positions meet such a value. How far one reaches is
measured too, by a reference whose activations are flipped on purpose; at the worst position the larger of the two
noises counts. Three positions in four must agree as if there were no rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.parity.reference.metrics import Closeness, Float64
from conform.parity.verdict import Measurement

__all__ = ["MAX_ABS_FLOOR", "MOST", "NMSE_FLOOR", "WORST", "Agreement", "Limit"]

NMSE_FLOOR = 1e-6
MAX_ABS_FLOOR = 2e-4
NOISE_FACTOR = 4.0

WORST = 1.0
"""The share of all positions: what it stays below is the worst."""
MOST = 0.75
"""Three positions in four."""

_Figure: TypeAlias = Callable[[Closeness], Float64]


@dataclass(frozen=True, slots=True)
class Limit:
    """One figure of the runtime, the same figure of the reference's own noise, and the floor of the tolerance."""

    measured: float
    noise: float
    floor: float

    @property
    def tolerance(self) -> float:
        """max(floor, factor × noise)."""
        return max(self.floor, NOISE_FACTOR * self.noise)

    def measurement(self, name: str) -> Measurement:
        """The figure beside its tolerance and where that comes from."""
        how = f"floor; noise {self.noise:.1e}" if self.tolerance == self.floor else f"{NOISE_FACTOR:g} × noise"
        return Measurement(name, self.measured, self.tolerance, how)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Runtime, noise and flips, each measured from the reference with float64 sums, row by row.

    `flips` is None where no activation is quantised. `judged` says which rows count, (rows,).
    """

    runtime: Closeness
    noise: Closeness
    flips: Closeness | None
    judged: NDArray[np.bool_]

    def nmse(self, share: float) -> Limit:
        """The NMSE that this share of the positions stays below."""
        return self._limit(lambda closeness: closeness.nmse, share, NMSE_FLOOR)

    def max_abs(self, share: float) -> Limit:
        """The largest difference of a logit that this share of the positions stays below."""
        return self._limit(lambda closeness: closeness.max_abs, share, MAX_ABS_FLOOR)

    @property
    def worst_row(self) -> int:
        """The judged row of the largest NMSE."""
        return int(np.argmax(np.where(self.judged, self.runtime.nmse, -1.0)))

    def tie(self, row: int) -> float:
        """The largest gap between two logits that the difference measured at this row can close.

        Each of the two may be off by that difference, in opposite directions.
        """
        measured = max(float(self.runtime.max_abs[row]), MAX_ABS_FLOOR)
        allowed = self.max_abs(WORST).tolerance
        return 2 * min(measured, allowed)

    def _limit(self, figure: _Figure, share: float, floor: float) -> Limit:
        noise = max(self._below(figure(source), share) for source in self._noises(share))
        return Limit(self._below(figure(self.runtime), share), noise, floor)

    def _noises(self, share: float) -> list[Closeness]:
        if share < WORST or self.flips is None:
            return [self.noise]
        return [self.noise, self.flips]

    def _below(self, figures: Float64, share: float) -> float:
        """The figure that this share of the judged rows does not exceed; infinite when no row is judged."""
        chosen = figures[self.judged]
        return float(np.quantile(chosen, share, method="higher")) if len(chosen) else float("inf")
