"""i2_s: ternary values at two bits each and one scale a tensor (BitNet), in the three byte layouts found in the wild.

    n/4 bytes of codes | 4 bytes float32 scale | 28 zero bytes        value = scale · (code - 1), code 3 never occurs

A byte holds the codes of four values, the first in its highest bits: v, v + stride, v + 2·stride and v + 3·stride. The
next byte holds v + 1 and so on, until `stride` bytes hold 4·stride values. The layouts differ in the stride alone:

    i2_s       32      of 128 values of a row       x86, and every converter written in Python: the usual one
    i2_s_arm   16      of 64 values of a row        the C quantizer compiled for ARM NEON since November 2025
    i2_s_rows  a row   of four rows, of one column  x86 compiled without activation parallelism

    byte 0 of i2_s      bits 7-6   5-4   3-2   1-0
                   value of      0    32    64    96

Nothing in a file tells which layout it is.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.i2_s.ternary import absmean_scale, exact_scale
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, frozen, packed_size, run_rows

__all__ = ["I2S", "I2SArm", "I2SRows", "TernaryScale", "conform_quantizers", "optimal_scale"]

TernaryScale: TypeAlias = Literal["absmean", "optimal"]
"""How a matrix that is not ternary yet gets its scale: BitNet's rule, or the least squared error."""

_GGML_TYPE = 36
_TAIL = 32


@dataclass(frozen=True, slots=True)
class I2S:
    """The usual layout. A matrix that is exactly ternary is packed without loss, whatever `ternary_scale` says."""

    name: ClassVar[str] = "i2_s"
    layout: ClassVar[Layout] = Layout(_GGML_TYPE, 128)
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
        return packed_size(self.name, shape, self.layout.block_size, self.layout.block_size) // 4 + _TAIL

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        size = self.nbytes(values.shape)
        rows = checked_rows(self.name, values, self.layout.block_size)
        scale = _scale(rows, self.ternary_scale)
        packed = np.zeros(size, np.uint8)
        packed[:-_TAIL] = _pack(rows, self._stride(rows.shape[1]), scale)
        packed[-_TAIL : 4 - _TAIL] = np.full(1, scale, "<f4").view(np.uint8)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        checked = checked_packed(self.name, packed, self.nbytes(shape))
        codes, scale = checked[:-_TAIL], checked[-_TAIL : 4 - _TAIL].view("<f4").astype(np.float32)
        # Code 3 has both of its bits set: after the shift they meet in the lower one, which 0x55 selects of each code.
        threes = codes & codes >> 1 & 0x55
        if threes.any():
            where = int(np.argmax(threes != 0))
            raise QuantizeError(f"byte {where} is 0x{codes[where]:02x}: code 3 has no meaning in {self.name}")
        return _unpack(codes.reshape(-1, self._stride(shape[-1])), scale[0]).reshape(shape)

    def _stride(self, cols: int) -> int:
        """How far apart the values of one byte are, and so how many bytes hold four times as many values."""
        return self.layout.block_size // 4

    def _rows_together(self) -> int:
        return 1


class I2SArm(I2S):
    """The layout of the ARM NEON kernels."""

    __slots__ = ()
    name: ClassVar[str] = "i2_s_arm"
    layout: ClassVar[Layout] = Layout(_GGML_TYPE, 64, "arm")


class I2SRows(I2S):
    """The layout that interleaves four rows."""

    __slots__ = ()
    name: ClassVar[str] = "i2_s_rows"
    layout: ClassVar[Layout] = Layout(_GGML_TYPE, 1, "rows")

    def _stride(self, cols: int) -> int:
        return cols

    def _rows_together(self) -> int:
        return 4


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (I2S(), I2SArm(), I2SRows())


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
