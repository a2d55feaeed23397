"""Blocks: what every block quantizer does around its kernel: check values, weigh columns, spread rows over threads."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import QuantizeError
from conform.core.files.cores import usable_cores
from conform.core.quantizer import Float32, Packed

__all__ = ["checked_packed", "checked_rows", "column_weights", "frozen", "packed_size", "run_rows", "threads"]

_Array = TypeVar("_Array", bound=NDArray[Any])

# (values, weights, out) for some whole rows; must be a nogil function of its arguments alone.
RowKernel = Callable[[Float32, Float32, Packed], None]


def packed_size(name: str, shape: tuple[int, ...], block_size: int, block_bytes: int) -> int:
    """Bytes of a tensor of that shape in blocks that may not cross a row.

    Raises QuantizeError when a row is not a whole number of blocks.
    """
    cols = shape[-1] if shape else 0
    if cols <= 0 or cols % block_size:
        raise QuantizeError(f"rows of {cols} values are not a multiple of {block_size}, which {name} needs")
    return int(np.prod(shape, dtype=np.int64)) // block_size * block_bytes


def checked_rows(name: str, values: Float32, block_size: int) -> Float32:
    """The values as (rows, cols) float32, C-contiguous.

    Raises QuantizeError for another dtype, NaN, infinity, or rows that are not whole blocks.
    """
    if values.dtype != np.float32:
        raise QuantizeError(f"{name} quantizes float32 values, found {values.dtype}")
    packed_size(name, values.shape, block_size, 1)
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    # If a value is not finite, neither is the sum of squares: only then is it worth looking for the first such value.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(np.dot(rows.ravel(), rows.ravel()))
    if suspicious and not (finite := np.isfinite(rows)).all():
        row, col = np.argwhere(~finite)[0]
        raise QuantizeError(f"row {row}, column {col} is {rows[row, col]}; {name} quantizes finite values only")
    return rows


def checked_packed(name: str, packed: Packed, nbytes: int) -> Packed:
    """The bytes, C-contiguous and read-only, exactly `nbytes` of them.

    Raises QuantizeError for another size, dtype or number of dimensions.
    """
    if packed.dtype != np.uint8 or packed.shape != (nbytes,):
        raise QuantizeError(
            f"{name} decodes {nbytes} bytes for this shape, found {packed.dtype} of shape {packed.shape}"
        )
    return frozen(np.ascontiguousarray(packed))


def frozen(array: _Array) -> _Array:
    """A read-only view. A kernel is compiled anew for arrays that differ in this, so they always read one."""
    view = array.view()
    view.flags.writeable = False
    return view


def column_weights(name: str, importance: Float32 | None, cols: int) -> Float32:
    """The weight of each column's squared error, (cols,) float32; ones without an importance vector.

    Raises QuantizeError for another length, NaN, infinity or a negative weight.
    """
    if importance is None:
        return np.ones(cols, np.float32)
    weights = np.ascontiguousarray(importance, np.float32)
    if weights.shape != (cols,):
        raise QuantizeError(f"importance has shape {weights.shape}; {name} expects ({cols},) for rows of {cols} values")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise QuantizeError(f"importance holds a value that is negative or not finite; {name} cannot weigh by it")
    return weights


def threads() -> int:
    """How many threads may work: CONFORM_THREADS, or the cores this process may use."""
    asked = os.environ.get("CONFORM_THREADS", "")
    return max(1, int(asked)) if asked.isdecimal() else usable_cores()


def run_rows(kernel: RowKernel, rows: Float32, weights: Float32, row_bytes: int) -> Packed:
    """The packed rows; each row depends on itself alone, so the bytes are the same for any number of threads."""
    out = np.zeros((len(rows), row_bytes), np.uint8)
    workers = min(threads(), len(rows))
    if workers <= 1:
        kernel(rows, weights, out)
        return out.ravel()
    # Four chunks a worker even out rows of unequal cost.
    edges = np.linspace(0, len(rows), min(len(rows), 4 * workers) + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(kernel, rows[a:b], weights, out[a:b]) for a, b in itertools.pairwise(edges)]
        for job in jobs:
            job.result()
    return out.ravel()
