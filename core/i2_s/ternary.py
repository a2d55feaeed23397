"""Ternary: a float matrix becomes -1, 0, +1 and one scale, by the absmean rule of BitNet b1.58 (arXiv:2402.17764).

Two kinds of contract have ternary layers. Under "ternary" the scale is the mean magnitude of whatever is stored,
because that is what training computes; a matrix that happens to hold -c, 0 and c alone is no exception, and shrinks.
Under "ternary-stored" the source says that its weights are not quantised again: they are -c, 0 and c, and stay so.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32

__all__ = ["Codes", "absmean_scale", "effective", "exact_scale", "optimal_scale", "stored_ternary", "ternarise"]

Codes: TypeAlias = NDArray[np.int8]
"""Ternary values -1, 0, +1 in the shape of the matrix."""

_SMALLEST_SCALE = np.float32(1e-5)
_PIECE = 1 << 16


def absmean_scale(values: Float32) -> np.float32:
    """max(mean |w|, 1e-5): the mean is accumulated in float64, then rounded to float32."""
    total = sum(float(magnitudes.sum(dtype=np.float64)) for magnitudes in _magnitudes(values))
    return max(np.float32(total / values.size) if values.size else np.float32(0), _SMALLEST_SCALE)


def exact_scale(values: Float32) -> np.float32 | None:
    """c when every value is -c, 0 or c, with c > 0; None for any other matrix."""
    largest = max((np.float32(magnitudes.max()) for magnitudes in _magnitudes(values)), default=np.float32(0))
    if not largest > 0 or not np.isfinite(largest):
        return None
    exact = all(bool(((some == largest) | (some == 0)).all()) for some in _magnitudes(values))
    return largest if exact else None


def optimal_scale(values: Float32) -> np.float32:
    """The scale s that minimises Σ(w - s·t)² over ternary t, exactly.

    With the k largest magnitudes kept, their mean is the best scale and the error falls by (their sum)²/k; so the best
    k is found by sorting, in O(n log n).
    """
    magnitudes = np.sort(np.abs(values), axis=None)[::-1]
    sums = np.cumsum(magnitudes, dtype=np.float64)
    counts = np.arange(1, sums.size + 1, dtype=np.float64)
    best = int(np.argmax(sums * sums / counts))
    return np.float32(sums[best] / counts[best])


def ternarise(values: Float32) -> tuple[Codes, np.float32]:
    """The codes clip(rint(w / scale), -1, 1), halves rounded to even, and the scale, which is absmean.

    Raises QuantizeError for NaN and infinity.
    """
    scale = absmean_scale(values)
    if not np.isfinite(scale):
        raise QuantizeError("a value is NaN or infinite, or their mean overflows; only finite values are ternarised")
    return np.clip(np.rint(values / scale), -1, 1).astype(np.int8), scale


def stored_ternary(values: Float32, name: str = "") -> tuple[Codes, np.float32]:
    """The codes and the scale of a matrix that is ternary already; zeros alone have the smallest scale.

    Raises QuantizeError for any other matrix, with the name of the tensor before it.
    """
    scale = exact_scale(values) if values.any() else _SMALLEST_SCALE
    if scale is None:
        where = f"{name}: " if name else ""
        raise QuantizeError(
            f"{where}not ternary: expected only -c, 0 and c, because the contract says that it is stored so"
        )
    return np.sign(values).astype(np.int8), scale


def effective(values: Float32) -> Float32:
    """The values that a ternary layer computes with: codes times scale."""
    codes, scale = ternarise(values)
    return codes.astype(np.float32) * scale


def _magnitudes(values: Float32) -> Iterator[Float32]:
    """|w| piece by piece, so that it stays in a core's cache."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield np.abs(flat[start : start + _PIECE])
