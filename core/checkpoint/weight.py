"""Weight: one matrix or vector of a model, however its values are stored, read a few rows at a time.

plain           the values themselves
packed ternary  bytes (rows / 4, cols) of four codes each, and a scale. Byte (r, c) holds, from its lowest bits upwards,
                the codes of rows r, r + rows/4, r + rows/2 and r + 3·rows/4 of column c; value = scale · (code - 1)
loose ternary   values of -1, 0 and 1, and a scale
FP8 blocks      E4M3 values, and a scale for each block of so many rows and columns

Layouts as in transformers 5.24, integrations/bitnet.py and integrations/finegrained_fp8.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from conform.contract.quantisation import ScaleUse
from conform.core.checkpoint.safetensors_header import StoredTensor
from conform.core.checkpoint.safetensors_values import as_table, read_bytes, read_rows
from conform.core.errors import CheckpointError
from conform.core.quantizer import Float32

__all__ = [
    "CODES_PER_BYTE",
    "BlockScaled",
    "CodeScale",
    "LooseTernary",
    "PackedTernary",
    "Plain",
    "Values",
    "Weight",
    "check_finite",
    "equal_values",
    "read_weight",
]

CODES_PER_BYTE = 4

# Values of one piece: large enough for the disk, small beside a tensor.
_PIECE = 4 << 20


class Values(Protocol):
    """Where values come from."""

    def rows(self, start: int, stop: int) -> Float32:
        """The rows from `start` up to `stop`, a fresh array (stop - start, columns); a vector is a column.

        Raises CheckpointError for bytes that mean nothing or a truncated file.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight: the tensor that holds its values or codes; shape and dtype of its values; how to read them."""

    tensor: StoredTensor
    shape: tuple[int, ...]
    dtype: str
    values: Values


@dataclass(frozen=True, slots=True)
class Plain:
    """The values themselves."""

    tensor: StoredTensor

    def rows(self, start: int, stop: int) -> Float32:
        """See Values."""
        return read_rows(self.tensor, start, stop)


@dataclass(frozen=True, slots=True)
class CodeScale:
    """The one scale of a ternary matrix, and whether it multiplies the codes or divides them."""

    tensor: StoredTensor
    use: ScaleUse

    def value(self) -> np.float32:
        """What the codes are multiplied with.

        Raises CheckpointError when it is not a finite number above zero.
        """
        stored = read_rows(self.tensor, 0, 1)[0, 0]
        with np.errstate(over="ignore", divide="ignore"):
            scale = stored if self.use == "multiplies" else np.float32(1) / stored
        if not (np.isfinite(scale) and scale > 0):
            raise CheckpointError(
                f"{self.tensor.path}: {self.tensor.name}: the scale is {stored}; expected a finite number above zero"
            )
        return np.float32(scale)


@dataclass(frozen=True, slots=True)
class PackedTernary:
    """Ternary codes, four in a byte."""

    tensor: StoredTensor
    scale: CodeScale

    def rows(self, start: int, stop: int) -> Float32:
        """See Values."""
        height, cols = self.tensor.shape
        codes = np.empty((stop - start, cols), np.uint8)
        for quarter in range(start // height, -(-stop // height)):
            offset = quarter * height
            first, last = max(start, offset), min(stop, offset + height)
            packed = read_bytes(self.tensor, first - offset, last - offset).reshape(-1, cols)
            codes[first - start : last - start] = packed >> 2 * quarter & 3
        if (codes == 3).any():
            where = _place(codes == 3, start)
            raise CheckpointError(
                f"{self.tensor.path}: {self.tensor.name}: code 3 at {where}; expected 0, 1 and 2, which stand "
                "for -1, 0 and 1"
            )
        return (codes.astype(np.float32) - 1) * self.scale.value()


@dataclass(frozen=True, slots=True)
class LooseTernary:
    """Ternary codes as values of -1, 0 and 1."""

    tensor: StoredTensor
    scale: CodeScale

    def rows(self, start: int, stop: int) -> Float32:
        """See Values."""
        codes = read_rows(self.tensor, start, stop)
        other = (codes != 0) & (np.abs(codes) != 1)
        if other.any():
            raise CheckpointError(
                f"{self.tensor.path}: {self.tensor.name}: the value at {_place(other, start)} is {codes[other][0]}; "
                f"expected -1, 0 and 1, because {self.scale.tensor.name} is their scale"
            )
        return codes * self.scale.value()


@dataclass(frozen=True, slots=True)
class BlockScaled:
    """FP8 values, and scales (rows / block rows, columns / block columns), both rounded up."""

    tensor: StoredTensor
    scales: StoredTensor
    block: tuple[int, int]

    def rows(self, start: int, stop: int) -> Float32:
        """See Values."""
        values = read_rows(self.tensor, start, stop)
        height, width = self.block
        first = start // height
        with np.errstate(invalid="ignore", over="ignore"):
            for number, scales in enumerate(read_rows(self.scales, first, -(-stop // height)), first):
                rows = slice(max(number * height - start, 0), (number + 1) * height - start)
                values[rows] *= np.repeat(scales, min(width, values.shape[1]))[: values.shape[1]]
        return values


def read_weight(weight: Weight) -> Float32:
    """All values, a fresh array in the weight's shape.

    Raises CheckpointError for a shape without values, and what reading the rows raises.
    """
    if 0 in weight.shape:  # beside a 0, the other dimensions may be of any size
        raise CheckpointError(f"{weight.tensor.path}: {weight.tensor.name}: shape {weight.shape} holds no values")
    values = np.empty(as_table(weight.shape), np.float32)
    for start, rows in _pieces(weight):
        values[start : start + len(rows)] = rows
    return values.reshape(weight.shape)


def check_finite(weight: Weight) -> None:
    """Pass when every value is finite.

    Raises CheckpointError naming the tensor and the place of its first NaN or infinity.
    """
    for start, rows in _pieces(weight):
        finite = np.isfinite(rows)
        if not finite.all():
            place = _place(~finite, start)[: max(1, len(weight.shape))]
            raise CheckpointError(
                f"{weight.tensor.path}: {weight.tensor.name}: the value at {place} is {rows[~finite][0]} as float32; "
                "expected finite weights"
            )


def equal_values(left: Weight, right: Weight) -> bool:
    """True when two weights have the same shape and values, in whatever dtype; NaN equals NaN."""
    if left.shape != right.shape:
        return False
    return all(
        np.array_equal(rows, others, equal_nan=True)
        for (_, rows), (_, others) in zip(_pieces(left), _pieces(right), strict=True)
    )


def _pieces(weight: Weight) -> Iterator[tuple[int, Float32]]:
    """The number of its first row and the rows themselves, of one piece after another."""
    height, width = as_table(weight.shape)
    step = max(1, _PIECE // max(1, width))
    for start in range(0, height if width else 0, step):
        yield start, weight.values.rows(start, min(start + step, height))


def _place(wrong: NDArray[np.bool_], start: int) -> list[int]:
    """Row and column of the first that is wrong, in rows that begin with number `start`."""
    row, col = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return [start + int(row), int(col)]
