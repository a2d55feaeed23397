"""Quantizers that break one promise each, with the checks that must notice."""

import os
import tempfile
from typing import ClassVar

import numpy as np

from conform.plugins import Layout, QuantizeError, checked_packed, packed_size
from conform.plugins.quantizers.i2_s import I2S, I2SArm
from conform.plugins.quantizers.q8_0 import Q8_0

from .sound import BLOCK, BYTES, Sound

__all__ = ["BROKEN"]


class FlagIsText(Sound):
    needs_importance = "no"


class NeedsWhatItIgnores(Sound):
    needs_importance = True

    def quantize(self, values, importance=None):
        if importance is None:
            raise QuantizeError("an importance is needed")
        return super().quantize(values, None)


class SizeIsNoInt(Sound):
    def nbytes(self, shape):
        return np.int64(super().nbytes(shape))


class SizeOfAnotherType(Sound):
    """Claims to be q4_0, whose blocks have 18 bytes."""

    layout = Layout(2, BLOCK)


class PromisesMore(Sound):
    def nbytes(self, shape):
        return super().nbytes(shape) + 4

    def dequantize(self, packed, shape):
        return self.unpack(checked_packed(self.name, packed, super().nbytes(shape))).reshape(shape)


class DoublePrecision(Sound):
    def dequantize(self, packed, shape):
        return super().dequantize(packed, shape).astype(np.float64)


class MemoryOrder(Sound):
    def quantize(self, values, importance=None):
        return super().quantize(values.ravel(order="K").reshape(values.shape), importance)


class PadsWidths(Sound):
    def nbytes(self, shape):
        if not shape or not shape[-1]:
            raise QuantizeError("no values")
        return packed_size(self.name, (*shape[:-1], -(-shape[-1] // BLOCK) * BLOCK), BLOCK, BYTES)

    def quantize(self, values, importance=None):
        self.nbytes(values.shape)
        missing = -values.shape[-1] % BLOCK
        return super().quantize(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]), importance)


class RaisesValueError(Sound):
    def nbytes(self, shape):
        try:
            return super().nbytes(shape)
        except QuantizeError as error:
            raise ValueError(str(error)) from error


class ReadsPastTheEnd(Sound):
    def dequantize(self, packed, shape):
        return super().dequantize(np.resize(packed, self.nbytes(shape)), shape)


class ScalesInPlace(Sound):
    def quantize(self, values, importance=None):
        packed = super().quantize(values, importance)
        if values.flags.writeable:
            values *= np.float32(0.5)
        return packed


class ChangesASingleBlock(Sound):
    """Transposed, one block is contiguous already: what should be a copy is a view of the input."""

    def scale(self, blocks):
        columns = np.ascontiguousarray(blocks.T)
        if columns.flags.writeable:
            np.abs(columns, out=columns)
        return super().scale(columns.T)


class NeedsWriteable(Sound):
    def quantize(self, values, importance=None):
        if not values.flags.writeable:
            raise QuantizeError("cannot work in place")
        return super().quantize(values, importance)


class ReusesItsBuffer(Sound):
    buffers: ClassVar[dict] = {}

    def quantize(self, values, importance=None):
        packed = super().quantize(values, importance)
        buffer = self.buffers.setdefault((os.getpid(), values.shape), np.empty_like(packed))
        buffer[:] = packed
        return buffer


class SeedsNumpy(Sound):
    def pack(self, rows, weights):
        np.random.seed(len(rows))
        return super().pack(rows, weights)


class DecodesWithItsLastScale(Sound):
    largest = 1.0

    def quantize(self, values, importance=None):
        packed = super().quantize(values, importance)
        self.largest = np.float32(np.abs(values).max() or 1)
        return packed

    def dequantize(self, packed, shape):
        return super().dequantize(packed, shape) / self.largest * self.largest


class WritesALog(Sound):
    def pack(self, rows, weights):
        with tempfile.TemporaryFile() as file:
            file.write(b"packed")
        return super().pack(rows, weights)


class ThreadsDecideTheScale(Sound):
    def scale(self, blocks):
        return super().scale(blocks) * (1 + int(os.environ.get("CONFORM_THREADS", "1")) / 1000)


class OneScaleForAllRows(Sound):
    def scale(self, blocks):
        return np.broadcast_to(super().scale(blocks).max(axis=0, keepdims=True, initial=0), (len(blocks), 1))


class KeepsAllCandidates(Sound):
    def levels(self, blocks, scale):
        offsets = np.linspace(-1e-6, 1e-6, 9)
        scales = np.where(scale > 0, scale, 1)
        return np.rint(blocks[..., None] / scales[..., None] + offsets)[..., 4]


class Coarse(Sound):
    def scale(self, blocks):
        return super().scale(blocks) * 127 / 7


class RemembersTheValues(Sound):
    memory: ClassVar[dict] = {}

    def quantize(self, values, importance=None):
        packed = super().quantize(values, importance)
        self.memory[packed.tobytes()] = values.copy()
        return packed

    def dequantize(self, packed, shape):
        decoded = super().dequantize(packed, shape)
        return self.memory.get(packed.tobytes(), decoded).reshape(shape).copy()


class ForgetsTheLastBlock(Sound):
    def unpack(self, packed):
        values = super().unpack(packed)
        values[-1] = 0
        return values


class Shrinks(Sound):
    def unpack(self, packed):
        return super().unpack(packed) * np.float32(0.99)


class WeighsTheWrongWay(Sound):
    def pack(self, rows, weights):
        return super().pack(rows, 1 / np.maximum(weights, 1e-6))


class TakesAnyImportance(Sound):
    def quantize(self, values, importance=None):
        if importance is not None:
            importance = np.resize(np.abs(np.nan_to_num(importance)), values.shape[-1])
        return super().quantize(values, importance)


class DividesByNoWeight(Sound):
    def pack(self, rows, weights):
        if not weights.any():
            weights = np.full(weights.shape, np.nan, np.float32)
        packed = super().pack(rows, weights)
        if rows.size and np.isnan(weights).any():
            packed.reshape(-1, BYTES)[:, :4] = np.full(1, np.nan, "<f4").view(np.uint8)
        return packed


class EffortBackwards(Sound):
    def __init__(self, coarseness=1):
        self.coarseness = coarseness

    def with_effort(self, effort):
        return EffortBackwards({"fast": 1, "default": 2, "best": 3}[effort])

    def scale(self, blocks):
        return super().scale(blocks) * self.coarseness


class ZeroIsNotZero(Sound):
    def unpack(self, packed):
        return super().unpack(packed) + np.float32(1e-7)


class ConstantsVanish(Sound):
    def scale(self, blocks):
        return np.where(np.ptp(blocks, axis=1, keepdims=True) == 0, 0, super().scale(blocks))


class SmallestScale(Sound):
    def store(self, fitted, levels):
        return super().store(np.maximum(fitted, 2.0**-20), levels)


class HalfPrecisionOverflows(Sound):
    def store(self, fitted, levels):
        return super().store(fitted.astype(np.float16), levels)

    def scale(self, blocks):
        return super().scale(blocks).astype(np.float32)


class NaNBecomesZero(Sound):
    def quantize(self, values, importance=None):
        return super().quantize(np.nan_to_num(values, posinf=0, neginf=0), importance)


class DividesByTheMedian(Sound):
    def store(self, fitted, levels):
        median = np.median(np.abs(levels), axis=1, keepdims=True)
        empty = ~levels.any(axis=1, keepdims=True)
        return super().store(np.where(empty, fitted, fitted * (median / median)), levels)


class ScaleAtTheEnd(Sound):
    """A sound format of its own that claims to be q8_0: the scale stands at the end."""

    layout = Layout(8, BLOCK)

    def nbytes(self, shape):
        return Q8_0().nbytes(shape)

    def quantize(self, values, importance=None):
        return np.roll(Q8_0().quantize(values).reshape(-1, 34), -2, axis=1).ravel()

    def dequantize(self, packed, shape):
        if packed.shape != (self.nbytes(shape),):
            raise QuantizeError("another size")
        return Q8_0().dequantize(np.roll(packed.reshape(-1, 34), 2, axis=1).ravel(), shape)


class WrongLaneOrder(I2S):
    """The ARM layout under the usual one's name."""

    def _stride(self, cols):
        return I2SArm()._stride(cols)


BROKEN = {
    FlagIsText: {"protocol"},
    NeedsWhatItIgnores: {"importance"},
    SizeIsNoInt: {"size-law"},
    SizeOfAnotherType: {"size-law", "independent"},
    PromisesMore: {"size-law", "shapes", "any-values"},
    DoublePrecision: {"shapes", "idempotence"},
    MemoryOrder: {"shapes"},
    PadsWidths: {"bad-shapes"},
    RaisesValueError: {"bad-shapes"},
    ReadsPastTheEnd: {"bad-shapes"},
    ScalesInPlace: {"input", "state"},
    ChangesASingleBlock: {"input"},
    NeedsWriteable: {"input"},
    ReusesItsBuffer: {"state"},
    DecodesWithItsLastScale: {"state"},
    SeedsNumpy: {"surroundings"},
    WritesALog: {"no-io"},
    ThreadsDecideTheScale: {"determinism"},
    OneScaleForAllRows: {"chunking"},
    KeepsAllCandidates: {"memory"},
    Coarse: {"error", "last-values"},
    RemembersTheValues: {"information", "importance"},
    ForgetsTheLastBlock: {"last-values"},
    Shrinks: {"idempotence"},
    WeighsTheWrongWay: {"importance"},
    TakesAnyImportance: {"importance"},
    DividesByNoWeight: {"importance"},
    EffortBackwards: {"effort"},
    ZeroIsNotZero: {"zeros"},
    ConstantsVanish: {"constants"},
    SmallestScale: {"denormals", "any-values"},
    HalfPrecisionOverflows: {"outliers"},
    NaNBecomesZero: {"not-finite"},
    DividesByTheMedian: {"outliers", "any-values"},
    ScaleAtTheEnd: {"independent"},
    WrongLaneOrder: {"independent"},
}
"""Each broken quantizer, with all the checks that fail for it: no more, no fewer."""
