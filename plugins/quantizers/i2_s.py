"""i2_s: ternary values at two bits each and one scale a tensor (BitNet), in the three byte layouts found in the wild.

`conform.core.i2_s.format` draws them.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.i2_s.format import BLOCK_SIZE, CODES_PER_BYTE, I2_S, ROWS_TOGETHER, TAIL, TernaryScale
from conform.core.i2_s.ternary import absmean_scale, exact_scale, optimal_scale
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, frozen, packed_size, run_rows

__all__ = ["I2S", "I2SArm", "I2SRows", "conform_quantizers"]


@dataclass(frozen=True, slots=True)
class I2S:
    """The usual layout. A matrix that is exactly ternary is packed without loss, whatever `ternary_scale` says.

    What a ternary layer computes with is decided before: see `conform.core.i2_s.ternary`.
    """

    name: ClassVar[str] = "i2_s"
    layout: ClassVar[Layout] = Layout(I2_S, BLOCK_SIZE["x86"])
    needs_importance: ClassVar[bool] = False

    ternary_scale: TernaryScale = "absmean"

    def with_scale(self, ternary_scale: TernaryScale) -> "I2S":
        """The same layout, scaled by the other rule.

        Raises QuantizeError for a rule that does not exist.
        """
        if ternary_scale not in {"absmean", "optimal"}:
            raise QuantizeError(f"{ternary_scale}: no such ternary scale; there are absmean and optimal")
        return dataclasses.replace(self, ternary_scale=ternary_scale)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        rows = math.prod(shape[:-1])
        if rows % self._rows_together():
            raise QuantizeError(f"{rows} rows are not a multiple of {self._rows_together()}, which {self.name} needs")
        return packed_size(self.name, shape, self.layout.block_size, self.layout.block_size) // CODES_PER_BYTE + TAIL

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        size = self.nbytes(values.shape)
        rows = checked_rows(self.name, values, self.layout.block_size)
        scale = _scale(rows, self.ternary_scale)
        packed = np.zeros(size, np.uint8)
        packed[:-TAIL] = _pack(rows, self._stride(rows.shape[1]), scale)
        packed[-TAIL : 4 - TAIL] = np.full(1, scale, "<f4").view(np.uint8)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        checked = checked_packed(self.name, packed, self.nbytes(shape))
        codes, scale = checked[:-TAIL], checked[-TAIL : 4 - TAIL].view("<f4").astype(np.float32)
        # Code 3 has both of its bits set: after the shift they meet in the lower one, which 0x55 selects of each code.
        threes = codes & codes >> 1 & 0x55
        if threes.any():
            where = int(np.argmax(threes != 0))
            raise QuantizeError(f"byte {where} is 0x{codes[where]:02x}: code 3 has no meaning in {self.name}")
        return _unpack(codes.reshape(-1, self._stride(shape[-1])), scale[0]).reshape(shape)

    def _stride(self, cols: int) -> int:
        """How far apart the values of one byte are, and so how many bytes hold four times as many values."""
        return self.layout.block_size // CODES_PER_BYTE

    def _rows_together(self) -> int:
        return ROWS_TOGETHER["x86"]


class I2SArm(I2S):
    """The layout of the ARM NEON kernels."""

    __slots__ = ()
    name: ClassVar[str] = "i2_s_arm"
    layout: ClassVar[Layout] = Layout(I2_S, BLOCK_SIZE["arm"], "arm")


class I2SRows(I2S):
    """The layout that interleaves four rows."""

    __slots__ = ()
    name: ClassVar[str] = "i2_s_rows"
    layout: ClassVar[Layout] = Layout(I2_S, BLOCK_SIZE["rows"], "rows")

    def _stride(self, cols: int) -> int:
        return cols

    def _rows_together(self) -> int:
        return ROWS_TOGETHER["rows"]


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (I2S(), I2SArm(), I2SRows())


def _scale(rows: Float32, rule: TernaryScale) -> np.float32:
    head = rows[:1]
    # If the first row is not ternary, the matrix is not, and the other rows need not be read.
    exact = None if head.any() and exact_scale(head) is None else exact_scale(rows)
    if exact is not None:
        return exact
    scale = optimal_scale(rows) if rule == "optimal" and rows.any() else absmean_scale(rows)
    if not np.isfinite(scale):
        raise QuantizeError("the mean magnitude overflows float32, so there is no ternary scale")
    return scale


def _pack(rows: Float32, stride: int, scale: np.float32) -> Packed:
    from conform.plugins.quantizers.kernels.conversion import encode_i2_s

    # rint(w / scale) is +1 exactly where w > scale / 2: a quotient of one half rounds to 0, which is even, and the
    # quotient of the next larger w is above one half.
    threshold = scale / np.float32(2)

    def kernel(some: Float32, _weights: Float32, out: Packed) -> None:
        encode_i2_s(some.reshape(-1, 4, stride), threshold, out)

    return run_rows(kernel, frozen(rows.reshape(-1, 4 * stride)), rows[:0], stride)


def _unpack(codes: Packed, scale: np.float32) -> Float32:
    from conform.plugins.quantizers.kernels.conversion import decode_i2_s

    values = np.empty((len(codes), 4, codes.shape[1]), np.float32)
    decode_i2_s(codes, scale, values)
    return values
