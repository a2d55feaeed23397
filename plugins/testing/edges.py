"""Edges: zeros, constants, denormals, outliers, values that are not finite, and whatever Hypothesis draws."""

import math
from functools import partial

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32
from conform.plugins.testing.accuracy import error_ceiling
from conform.plugins.testing.check import Check, require
from conform.plugins.testing.sizes import refuses
from conform.plugins.testing.subject import Subject, relative_error

__all__ = ["CHECKS"]

# Half-precision scales below this lose their precision, so that smaller values may come back a few times as large.
_SMALLEST_NORMAL_HALF = 2.0**-14
_LARGEST_HALF = 65504.0
_EXAMPLES = 40


def _zeros(subject: Subject) -> str:
    require(not subject.round_trip(np.zeros(subject.shape, np.float32)).any(), "zeros are decoded to other values")
    values = subject.gaussian(12)
    values[0] = 0
    require(bool(np.isfinite(subject.round_trip(values)).all()), "a row of zeros spoils other rows")
    return "zeros stay zero"


def _constants(subject: Subject) -> str:
    worst, ceiling = 0.0, error_ceiling(subject.bits)
    for constant in (1.0, -1.0, 0.02, -3.7, 1000.0):
        values = np.full(subject.shape, constant, np.float32)
        decoded = subject.round_trip(values)
        error = relative_error(decoded, values) if np.isfinite(decoded).all() else math.inf
        require(error <= ceiling, f"{constant:g} everywhere: relative error {error:.3g}, ceiling {ceiling:.3g}")
        worst = max(worst, error)
    return f"relative error at most {worst:.3g}, ceiling {ceiling:.3g}"


def _denormals(subject: Subject) -> str:
    signs = np.where(subject.gaussian(13) < 0, np.float32(-1), np.float32(1))
    for magnitude in (1e-45, 1e-40, 1e-30, 1e-12, 1e-7):
        values = signs * np.float32(magnitude)
        values[0, 0] *= np.float32(0.5)  # not exactly ternary
        _bounded(f"values of {magnitude:g}", subject.round_trip(values), values)
    return "1e-45 to 1e-7 come back finite and small"


def _outliers(subject: Subject) -> str:
    refused = 0
    for outlier in (1e3, -6e4, 1e7, 1e30, float(np.finfo(np.float32).max)):
        values = subject.gaussian(14)
        values[1 % len(values), subject.cols // 2] = outlier
        try:
            decoded = subject.round_trip(values)
        except QuantizeError:
            # What half precision holds must work; beyond it a format may refuse, but not write an infinity.
            require(abs(outlier) > _LARGEST_HALF, f"one value of {outlier:g} is refused")
            refused += 1
            continue
        _bounded(f"one value of {outlier:g}", decoded, values)
        error = relative_error(decoded, values)
        require(error <= 1.0001, f"one value of {outlier:g}: relative error {error:.3g}, zeros would give 1")
    return f"5 outliers, {refused} of them refused"


def _not_finite(subject: Subject) -> str:
    rows, cols = subject.shape
    for value in (math.nan, math.inf, -math.inf):
        for row, col in ((0, 0), (rows // 2, cols // 2), (rows - 1, cols - 1)):
            values = subject.gaussian(15)
            values[row, col] = value
            refuses(f"{value} at row {row}, column {col}", partial(subject.encode, values))
    return "NaN and both infinities refused at three places"


def _any_values(subject: Subject) -> str:
    """Hypothesis draws the values; derandomised, so that a receipt can be reproduced."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    shapes = st.tuples(st.integers(1, 2), st.integers(1, 2)).map(
        lambda drawn: (drawn[0] * subject.rows_together, drawn[1] * subject.block)
    )
    exponents = st.integers(-40, 4).map(lambda power: float(np.float32(10.0**power)))
    fractions = st.floats(-1, 1, width=32)

    @settings(
        max_examples=_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(
            Phase.generate,
        ),  # the first failure is enough; shrinking it would take many times as long as the whole battery
        suppress_health_check=list(HealthCheck),
    )
    @given(shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=fractions)), exponents)
    def holds(values: Float32, magnitude: float) -> None:
        values = values * np.float32(magnitude)
        packed = subject.encode(values)
        require(len(packed) == subject.quantizer.nbytes(values.shape), f"{len(packed)} bytes for {values.shape}")
        _bounded(f"values {values.ravel()[:4]}…", subject.decode(packed, values.shape), values)

    holds()
    return f"{_EXAMPLES} drawn matrices of magnitude 1e-40 to 1e4"


def _bounded(what: str, decoded: Float32, values: Float32) -> None:
    require(bool(np.isfinite(decoded).all()), f"{what}: a decoded value is not finite")
    largest, allowed = float(np.abs(decoded).max()), 2 * float(np.abs(values).max())
    found = f"{what}: the largest decoded magnitude is {largest:.3g}"
    require(largest <= max(allowed, _SMALLEST_NORMAL_HALF), f"{found}, of values up to {allowed / 2:.3g}")


CHECKS = (
    Check("zeros", "zeros stay zero", _zeros),
    Check("constants", "constant tensors are packed as well as any", _constants),
    Check("denormals", "the smallest values come back finite and small", _denormals),
    Check("outliers", "one huge value is packed or refused, never turned into infinity", _outliers),
    Check("not-finite", "NaN and infinity are refused with QuantizeError", _not_finite),
    Check("any-values", "whatever the values, the result is finite and bounded by them", _any_values),
)
