"""Cost: what quantisation did to the values of one tensor."""

import math
from dataclasses import dataclass

import numpy as np

from conform.core.quantizer import Float32

__all__ = ["Cost", "measure_cost"]

# Values of one partial sum: small enough that float32 holds it to six digits, large enough to be fast.
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums over a tensor, in float64: of squared values, of squared errors, and of both weighted by importance."""

    values: float
    errors: float
    weighted_values: float
    weighted_errors: float

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of both tensors together."""
        return Cost(
            self.values + other.values,
            self.errors + other.errors,
            self.weighted_values + other.weighted_values,
            self.weighted_errors + other.weighted_errors,
        )

    @property
    def relative_error(self) -> float:
        """||decoded - source|| / ||source||; 0 for a tensor of zeros that stayed so."""
        return _ratio(self.errors, self.values)

    @property
    def weighted_relative_error(self) -> float:
        """The same with each column weighted by its importance; without an importance vector, the same figure."""
        return _ratio(self.weighted_errors, self.weighted_values)


def measure_cost(source: Float32, decoded: Float32, importance: Float32 | None = None) -> Cost:
    """The cost of `decoded` (same shape) against `source`; one pass in pieces that fit a cache."""
    rows, others = (source.reshape(-1, source.shape[-1]), decoded.reshape(-1, source.shape[-1]))
    step = max(1, _PIECE // rows.shape[1])
    totals = np.zeros(4)
    for start in range(0, len(rows), step):
        values = rows[start : start + step]
        errors = others[start : start + step] - values
        totals[:2] += (_squares(values), _squares(errors))
        if importance is not None:
            totals[2:] += (_weighted(values, importance), _weighted(errors, importance))
    if importance is None:
        totals[2:] = totals[:2]
    return Cost(*totals.tolist())


def _squares(values: Float32) -> float:
    flat = values.reshape(-1)
    return float(np.dot(flat, flat))


def _weighted(values: Float32, importance: Float32) -> float:
    return float(np.einsum("ij,ij,j->", values, values, importance.astype(np.float64)))


def _ratio(errors: float, values: float) -> float:
    if errors == 0:
        return 0.0
    return math.sqrt(errors / values) if values > 0 else math.inf
