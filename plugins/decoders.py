"""Decoders: the GGML types that conform reads but does not write, decoded by the `gguf` package."""

from typing import ClassVar, Final

import numpy as np

from conform.core.codec import Codec
from conform.core.errors import QuantizeError
from conform.core.gguf.types import GGML_TYPES, GGMLType
from conform.core.quantizer import Float32, Layout, Packed
from conform.plugins.quantizers.blocks import checked_packed, packed_size

__all__ = ["foreign_decoder"]

_READ: Final = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "mxfp4"})
# Values that are decoded at a time: the package keeps several arrays of that many.
_AT_ONCE = 1 << 20


class _Decoder:
    """Reads one type and refuses to write it; a subclass for each type says which."""

    name: ClassVar[str]
    layout: ClassVar[Layout]
    needs_importance: ClassVar[bool] = False
    block_bytes: ClassVar[int]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, self.layout.block_size, self.block_bytes)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        raise QuantizeError(f"{self.name} can be read but not written; name another type")

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, self.block_bytes)
        values = np.empty((len(blocks), self.layout.block_size), np.float32)
        step = _AT_ONCE // self.layout.block_size
        for start in range(0, len(blocks), step):
            rows = slice(start, start + step)
            with np.errstate(all="ignore"):  # what is not finite is found, and said, by whoever reads the values
                values[rows] = dequantize(blocks[rows], GGMLQuantizationType(self.layout.ggml_type))
        return values.reshape(shape)


def _reader_of(kind: GGMLType) -> _Decoder:
    facts = {"name": kind.name, "layout": Layout(kind.id, kind.block_size), "block_bytes": kind.block_bytes}
    reader: _Decoder = type(f"_{kind.name.upper()}", (_Decoder,), facts)()
    return reader


_READERS: Final = {kind.id: _reader_of(kind) for kind in GGML_TYPES.values() if kind.name in _READ}


def foreign_decoder(type_id: int) -> Codec | None:
    """A codec that decodes the GGML type of that id and packs nothing; None for a type that is not read this way."""
    reader = _READERS.get(type_id)
    return None if reader is None else Codec(reader, "the gguf package")
