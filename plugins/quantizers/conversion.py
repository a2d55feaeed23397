"""Conversion: what types without a search have in common: pack in one pass, then refuse what the type cannot hold."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.blocks import checked_rows, frozen, packed_size, run_rows

__all__ = ["Encode", "convert"]

Encode: TypeAlias = Callable[[Float32, Packed], np.uint32]
"""(blocks, block size) values → (blocks, block bytes); gives the bits of the largest magnitude, NaN being larger."""


class _TooLargeError(Exception):
    """A magnitude is at the limit or above it, infinite or NaN."""


def convert(
    name: str, values: Float32, block_size: int, block_bytes: int, encode: Encode, limit: np.float32, reason: str
) -> Packed:
    """The packed tensor, if every magnitude is below `limit`; `reason` goes on from "row 1, column 2 is 7e+04".

    Raises QuantizeError for another dtype, rows that are not whole blocks, NaN, infinity, and a magnitude of `limit` or
    more, naming the place.
    """
    if values.dtype != np.float32:
        raise QuantizeError(f"{name} quantizes float32 values, found {values.dtype}")
    packed_size(name, values.shape, block_size, block_bytes)
    rows = frozen(np.ascontiguousarray(values).reshape(-1, values.shape[-1]))

    def kernel(some: Float32, _weights: Float32, out: Packed) -> None:
        largest = encode(some.reshape(-1, block_size), out.reshape(-1, block_bytes))
        if largest >= limit.view(np.uint32):
            raise _TooLargeError

    try:
        return run_rows(kernel, rows, rows[:0], rows.shape[1] // block_size * block_bytes)
    except _TooLargeError:
        checked_rows(name, rows, block_size)
        row, col = np.argwhere(np.abs(rows) == np.abs(rows).max())[0]
        raise QuantizeError(f"row {row}, column {col} is {rows[row, col]:g}, {reason}") from None
