"""Accuracy: the error for the bits spent, where it lies, whether it repeats, and what importance and effort change."""

from functools import partial
from typing import get_args

import numpy as np

from conform.core.quantizer import Effort, Float32, Tunable
from conform.plugins.testing.check import Check, NotApplicable, require
from conform.plugins.testing.sizes import refuses
from conform.plugins.testing.subject import Subject, relative_error

__all__ = ["CHECKS", "error_ceiling", "error_floor"]

# Above so many bits the float32 values themselves are no longer continuous, and the bound does not apply.
_FLOOR_UP_TO = 12.0
# One part in two hundred: the spread of the measured error of the battery's tensors, and a search's luck.
_SPREAD = 1.005


def error_ceiling(bits: float) -> float:
    """The largest relative error (RMSE over RMS, gaussian values) that so many bits a value allow.

    No code of b bits can do better than 2^-b; four times that is within reach of the simplest uniform quantizer, and of
    the bits beyond four every second one may go to an exponent. Never worse than writing zeros.
    """
    return min(0.95, 4 * 2 ** -(bits if bits <= 4 else 4 + (bits - 4) / 2))


def error_floor(bits: float) -> float:
    """Shannon's bound for gaussian values, less 3% for the spread of a sample; 0 where it does not apply."""
    return 0.97 * 2**-bits if bits <= _FLOOR_UP_TO else 0.0


def _error(subject: Subject) -> str:
    ceiling = error_ceiling(subject.bits)
    gaussian = _measured(subject, subject.gaussian(), ceiling, "gaussian")
    # Heavy tails cost every block format more, but zeros would still cost 1.
    heavy = _measured(subject, subject.heavy_tailed(), min(1.0, 3 * ceiling), "heavy-tailed")
    return f"{gaussian:.3g} on gaussian and {heavy:.3g} on heavy-tailed values, ceiling {ceiling:.3g}"


def _measured(subject: Subject, values: Float32, ceiling: float, what: str) -> float:
    decoded = subject.round_trip(values)
    require(bool(np.isfinite(decoded).all()), f"{what} values: a decoded value is not finite")
    error = relative_error(decoded, values)
    found = f"{what} values: relative error {error:.3g}"
    require(error <= ceiling, f"{found}, the ceiling for {subject.bits:.4g} bits is {ceiling:.3g}")
    return error


def _information(subject: Subject) -> str:
    floor = error_floor(subject.bits)
    if not floor:
        raise NotApplicable(f"the bound does not apply at {subject.bits:.4g} bits a value")
    error = relative_error(subject.round_trip(subject.gaussian()), subject.gaussian())
    found = f"relative error {error:.3g}, no code of {subject.bits:.4g} bits can go below {floor:.3g}"
    require(error >= floor, f"{found}: the values come from somewhere else")
    return found


def _last_values(subject: Subject) -> str:
    shape = (3 * subject.rows_together, 3 * subject.block * -(-32 // subject.block))
    values = subject.gaussian(8, shape)
    decoded, last = subject.round_trip(values), max(subject.block, 32)
    error = relative_error(decoded[-1, -last:], values[-1, -last:])
    ceiling = min(0.98, 1.5 * error_ceiling(subject.bits))
    require(error <= ceiling, f"the last {last} values have a relative error of {error:.3g}, ceiling {ceiling:.3g}")
    return f"relative error {error:.3g} in the last {last} values, ceiling {ceiling:.3g}"


def _idempotence(subject: Subject) -> str:
    values = subject.gaussian(9)
    once = subject.round_trip(values)
    twice = subject.round_trip(once)
    lost, lost_again = relative_error(once, values), relative_error(twice, once)
    found = f"{lost:.3g} is lost the first time, {lost_again:.3g} the second"
    require(lost_again <= 0.5 * lost + 1e-6, f"{found}: values that the format holds exactly must nearly stay")
    return found


def _importance(subject: Subject) -> str:
    rng = np.random.default_rng(10)
    values, cols = subject.gaussian(10), subject.cols
    importance = (rng.lognormal(0, 1.5, cols) * rng.chisquare(2, cols)).astype(np.float32)
    plain, weighted = subject.encode(values), subject.encode(values, importance)
    _odd_importance(subject, values)
    if np.array_equal(plain, weighted):
        require(not subject.quantizer.needs_importance, "importance is demanded, and then ignored")
        raise NotApplicable("this quantizer weighs all columns alike")
    before = relative_error(subject.decode(plain), values, importance)
    after = relative_error(subject.decode(weighted), values, importance)
    found = f"weighted relative error {after:.4g} with importance, {before:.4g} without"
    require(after < before, found)
    for what, wrong in (
        ("importance one too short", importance[:-1]),
        ("importance that holds NaN", np.full(cols, np.nan, np.float32)),
        ("importance that is negative", -importance),
    ):
        refuses(what, partial(subject.encode, values, wrong))
    return found


def _odd_importance(subject: Subject, values: Float32) -> None:
    half = np.ones(subject.cols, np.float32)
    half[: subject.cols // 2] = 0
    for what, importance in (("all zero", np.zeros_like(half)), ("half zero", half)):
        decoded = subject.round_trip(values, importance)
        require(bool(np.isfinite(decoded).all()), f"importance {what}: a decoded value is not finite")


def _effort(subject: Subject) -> str:
    quantizer = subject.quantizer
    if not isinstance(quantizer, Tunable):
        raise NotApplicable("there is no with_effort()")
    values, errors = subject.gaussian(11), []
    for effort in get_args(Effort):
        tuned = Subject(quantizer.with_effort(effort))
        require(tuned.quantizer.layout == quantizer.layout, f"effort {effort} has another layout")
        require(tuned.quantizer.name == quantizer.name, f"effort {effort} has another name")
        errors.append(relative_error(tuned.round_trip(values), values))
    found = ", ".join(f"{effort} {error:.4g}" for effort, error in zip(get_args(Effort), errors, strict=True))
    require(errors[1] <= errors[0] * _SPREAD, f"{found}: more effort gives a larger error")
    require(errors[2] <= errors[1] * _SPREAD, f"{found}: more effort gives a larger error")
    return found


CHECKS = (
    Check("error", "the error is in proportion to the bits spent", _error),
    Check("information", "the error is not smaller than the bits allow", _information),
    Check("last-values", "the last block is packed as well as the others", _last_values),
    Check("idempotence", "values that were decoded are packed again with little loss", _idempotence),
    Check("importance", "importance lowers the error that it weighs, and a wrong one is refused", _importance),
    Check("effort", "more effort never gives a larger error, nor another layout", _effort),
)
