"""Subject: the quantizer under test, the shapes that fit it, and the values that it is tried on."""

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Packed, Quantizer

__all__ = ["Subject", "relative_error"]

# A tensor of the battery has about this many columns and rows: large enough to measure an error to a percent, small
# enough for a search that takes a microsecond a value.
_COLS = 512
_ROWS = 48
_SIGMA = 0.02
_MOST_ROWS_TOGETHER = 64


@dataclass
class Subject:
    """A quantizer, with a copy of it that no check has called yet."""

    quantizer: Quantizer
    untouched: Any = field(init=False)

    def __post_init__(self) -> None:
        self.untouched = copy.deepcopy(self.quantizer)

    @property
    def block(self) -> int:
        """Consecutive values of a row that are packed together."""
        return int(self.quantizer.layout.block_size)

    @cached_property
    def cols(self) -> int:
        """A width of whole blocks, at least 512."""
        return self.block * math.ceil(_COLS / self.block)

    @cached_property
    def rows_together(self) -> int:
        """The smallest number of rows that fits: 1, unless the layout interleaves rows.

        Raises QuantizeError when no number up to 64 does.
        """
        for rows in range(1, _MOST_ROWS_TOGETHER):
            try:
                self.quantizer.nbytes((rows, self.cols))
            except QuantizeError:
                continue
            return rows
        self.quantizer.nbytes((_MOST_ROWS_TOGETHER, self.cols))
        return _MOST_ROWS_TOGETHER

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The usual shape of a tensor of the battery."""
        return (math.ceil(_ROWS / self.rows_together) * self.rows_together, self.cols)

    @property
    def tail_bytes(self) -> int:
        """Bytes that a tensor has once, however many rows it has."""
        rows = self.rows_together
        return 2 * self.quantizer.nbytes((rows, self.cols)) - self.quantizer.nbytes((2 * rows, self.cols))

    @property
    def bits(self) -> float:
        """Bits a value, without what a tensor has once."""
        return 8 * (self.quantizer.nbytes(self.shape) - self.tail_bytes) / math.prod(self.shape)

    def gaussian(self, seed: int = 0, shape: tuple[int, ...] | None = None) -> Float32:
        """Normal values of deviation 0.02, as weights have."""
        normal = np.random.default_rng(seed).standard_normal(shape or self.shape, np.float32)
        return normal * np.float32(_SIGMA)

    def heavy_tailed(self, seed: int = 1) -> Float32:
        """Student's t with three degrees of freedom, scaled likewise."""
        return (np.random.default_rng(seed).standard_t(3, self.shape) * _SIGMA).astype(np.float32)

    def pack(self, values: Float32, importance: Float32 | None = None) -> Packed:
        """What quantize() returns for these very arrays; ones as importance where the quantizer demands one."""
        if importance is None and self.quantizer.needs_importance:
            importance = np.ones(values.shape[-1:], np.float32)
        return self.quantizer.quantize(values, importance)

    def encode(self, values: Float32, importance: Float32 | None = None) -> Packed:
        """The packed bytes of a copy of the values, so that a quantizer that changes its input fails one check only."""
        return self.pack(values.copy(), importance).copy()

    def decode(self, packed: Packed, shape: tuple[int, ...] | None = None) -> Float32:
        """The values of packed bytes in that shape, else in the usual one."""
        return self.quantizer.dequantize(packed, shape or self.shape)

    def round_trip(self, values: Float32, importance: Float32 | None = None) -> Float32:
        """The values that remain after packing and unpacking."""
        return self.decode(self.encode(values, importance), values.shape)


def relative_error(decoded: Float32, values: Float32, weights: Float32 | None = None) -> float:
    """Root of the (weighted) squared error over the (weighted) squares of the values; 0 when both vanish."""
    error = (decoded.astype(np.float64) - values) ** 2
    square = values.astype(np.float64) ** 2
    if weights is not None:
        error, square = error * weights, square * weights
    if not square.sum():
        return 0.0 if not error.sum() else math.inf
    return math.sqrt(error.sum() / square.sum())
