"""Safetensors values: rows of one stored tensor, so that a tensor can be gone through in bounded memory."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from conform.contract.bounded import open_regular
from conform.core.checkpoint.safetensors_header import StoredTensor
from conform.core.errors import CheckpointError
from conform.core.quantizer import Float32

__all__ = ["FLOAT_DTYPES", "as_table", "read_bytes", "read_rows"]

FLOAT_DTYPES = ("F32", "F16", "BF16", "F64")
"""What holds weights as they are; F8_E4M3 is read too, but means nothing without its scales."""


def as_table(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of that shape; a vector is a column."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def read_rows(tensor: StoredTensor, start: int, stop: int) -> Float32:
    """The rows from `start` up to `stop` as float32, a fresh array (stop - start, columns).

    Exact but for F64, whose values are rounded. Raises CheckpointError for a dtype that holds no weights or a truncated
    file, InputError when it cannot be read.
    """
    decode = _DECODERS.get(tensor.dtype)
    if decode is None:
        raise CheckpointError(
            f"{tensor.path}: {tensor.name}: dtype {tensor.dtype} holds no weights; expected one of "
            f"{', '.join(FLOAT_DTYPES)}"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are reported by whoever checks the values
        return decode(read_bytes(tensor, start, stop)).reshape(stop - start, -1)


def read_bytes(tensor: StoredTensor, start: int, stop: int) -> NDArray[np.uint8]:
    """The bytes of the rows from `start` up to `stop`, a fresh vector.

    Raises CheckpointError for a truncated file, InputError when it cannot be read.
    """
    per_row = tensor.nbytes // as_table(tensor.shape)[0]
    # Read, not mapped: a file that shrinks meanwhile is then an error, where a mapping would kill the process.
    raw = np.empty((stop - start) * per_row, np.uint8)
    with open_regular(tensor.path) as file:
        file.seek(tensor.offset + start * per_row)
        found = file.readinto(memoryview(raw.data))
    if found != raw.size:
        raise CheckpointError(f"{tensor.path}: {tensor.name}: the file was truncated while it was read")
    return raw


def _e4m3_values() -> Float32:
    """What each byte means as FP8 E4M3 (arXiv:2209.05433): sign, four bits of exponent, three of mantissa."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    magnitudes = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    magnitudes[codes & 127 == 127] = np.nan
    return np.where(codes < 128, magnitudes, -magnitudes).astype(np.float32)


def _widened(raw: NDArray[np.uint8]) -> Float32:
    wide = raw.view("<u2").astype(np.uint32)
    return np.left_shift(wide, 16, out=wide).view(np.float32)


_E4M3 = _e4m3_values()
_DECODERS: Mapping[str, Callable[[NDArray[np.uint8]], Float32]] = {
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "F32": lambda raw: raw.view("<f4"),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": _widened,
    "F8_E4M3": lambda raw: _E4M3[raw],
}
