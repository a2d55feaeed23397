"""Codec: a quantizer that a third party may have written, with its owner; nothing that it returns is trusted."""

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import PluginError, QuantizeError
from conform.core.gguf.types import ggml_type
from conform.core.guard import guarded
from conform.core.quantizer import Float32, Layout, Packed, Quantizer

__all__ = ["Codec"]

_SAMPLE = 1 << 16

_Item = TypeVar("_Item", np.float32, np.uint8)


@dataclass(frozen=True, slots=True)
class Codec:
    """The one way in which conform calls a quantizer; `owner` is `distribution version` of the plugin that offers it.

    A quantizer sees arrays that it cannot change. Every method raises PluginError naming quantizer and owner when the
    quantizer breaks the protocol, whatever it raises.
    """

    quantizer: Quantizer
    owner: str

    @property
    def name(self) -> str:
        """What is typed after --quant."""
        return self.quantizer.name

    @property
    def layout(self) -> Layout:
        """The identity of the packed bytes."""
        return self.quantizer.layout

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """The size of a packed tensor of that shape, which is what its type takes where that is known.

        Raises QuantizeError when the quantizer cannot take the shape.
        """
        with self._guarded(f"failed to size shape {shape}"):
            nbytes = self.quantizer.nbytes(shape)
        kind = ggml_type(self.layout.ggml_type)
        expected = kind.nbytes(shape) if kind else nbytes
        if not isinstance(nbytes, int) or nbytes < 1 or nbytes != expected:
            raise self._blamed(f"promises {nbytes} bytes for shape {shape}, where its tensor type takes {expected}")
        return nbytes

    def pack(self, tensor: str, values: Float32, importance: Float32 | None = None) -> Packed:
        """The packed bytes of the tensor of that name; `importance` (cols,) weighs the error of each column.

        Raises QuantizeError naming the tensor for values that the quantizer refuses.
        """
        before = _fingerprint(values)
        try:
            nbytes = self.nbytes(values.shape)
            with self._guarded("failed", tensor):
                packed = self.quantizer.quantize(_sealed(values), None if importance is None else _sealed(importance))
        except QuantizeError as error:
            raise QuantizeError(f"{tensor}: {error}") from error
        if _fingerprint(values) != before:
            raise self._blamed("changed its input", tensor)
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 1:
            raise self._blamed(f"returned {_described(packed)}; expected a vector of uint8", tensor)
        if packed.size != nbytes:
            raise self._blamed(f"returned {packed.size} bytes, though it had promised {nbytes}", tensor)
        return np.ascontiguousarray(packed)

    def unpack(self, tensor: str, packed: Packed, shape: tuple[int, ...]) -> Float32:
        """The float32 values of that shape.

        Raises QuantizeError naming the tensor for bytes that mean nothing.
        """
        try:
            with self._guarded("failed to decode", tensor):
                values = self.quantizer.dequantize(_sealed(packed), shape)
        except QuantizeError as error:
            raise QuantizeError(f"{tensor}: {error}") from error
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape != shape:
            raise self._blamed(f"decoded to something other than float32 of shape {shape}", tensor)
        return values if values.flags.writeable else values.copy()

    def tuned(self, tune: Callable[[], Quantizer]) -> "Codec":
        """The codec of the quantizer that `tune` returns, which has the same name and layout as this one."""
        with self._guarded("failed to be tuned"):
            quantizer = tune()
            same = isinstance(quantizer, Quantizer) and (quantizer.name, quantizer.layout) == (self.name, self.layout)
        if not same:
            raise self._blamed("changed its name or its layout when it was tuned")
        return replace(self, quantizer=quantizer)

    def _guarded(self, failure: str, tensor: str = "") -> AbstractContextManager[None]:
        return guarded(self._sentence(failure, tensor), QuantizeError)

    def _blamed(self, what: str, tensor: str = "") -> PluginError:
        return PluginError(self._sentence(what, tensor))

    def _sentence(self, what: str, tensor: str) -> str:
        where = f"{tensor}: " if tensor else ""
        return f"{where}quantizer {self.name} of {self.owner} {what}"


def _sealed(array: NDArray[_Item]) -> NDArray[_Item]:
    """A read-only view; unlike one whose flag was cleared, it cannot be made writeable again."""
    return np.asarray(memoryview(array).toreadonly())  # type: ignore[arg-type]  # a buffer, from Python 3.12 on by type


def _described(packed: object) -> str:
    return f"{packed.dtype} of shape {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__


def _fingerprint(values: Float32) -> tuple[int, ...]:
    # The sum sees any changed value at the speed of memory; the checksums of both ends see a mere reordering.
    flat = values.reshape(-1).view(np.uint32)
    total = int(np.add.reduce(flat, dtype=np.uint64))
    return total, zlib.crc32(flat[:_SAMPLE].tobytes()), zlib.crc32(flat[-_SAMPLE:].tobytes())
