"""GGUF types: the value types of keys, and the known tensor types with the size of their blocks."""

import math
from dataclasses import dataclass
from enum import IntEnum

from conform.core.i2_s.format import CODES_PER_BYTE, I2_S, TAIL

__all__ = ["GGML_TYPES", "I2_S", "GGMLType", "ValueType", "ggml_type", "tensor_nbytes"]


class ValueType(IntEnum):
    """The type ids of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True)
class GGMLType:
    """One tensor type. `ftype` is the `general.file_type` of a file made of it; None where there is none.

    i2_s has two bits a value and one tail a tensor; its `block_bytes` counts the packed values alone.
    """

    name: str
    id: int
    block_size: int
    block_bytes: int
    ftype: int | None = None

    def nbytes(self, shape: tuple[int, ...]) -> int | None:
        """The size of a tensor of that shape; None when its rows are not whole blocks."""
        count = math.prod(shape)
        if self.id == I2_S:
            return None if count % self.block_size else count // CODES_PER_BYTE + TAIL
        if not shape or shape[-1] % self.block_size:
            return None
        return count // self.block_size * self.block_bytes


# Only i2_s' ftype, 40, means something else elsewhere: upstream's Q1_0. The tensor type decides, never the ftype.
_ALL = (
    GGMLType("f32", 0, 1, 4, 0),
    GGMLType("f16", 1, 1, 2, 1),
    GGMLType("q4_0", 2, 32, 18, 2),
    GGMLType("q4_1", 3, 32, 20, 3),
    GGMLType("q5_0", 6, 32, 22, 8),
    GGMLType("q5_1", 7, 32, 24, 9),
    GGMLType("q8_0", 8, 32, 34, 7),
    GGMLType("q2_k", 10, 256, 84, 10),
    GGMLType("q3_k", 11, 256, 110, 11),
    GGMLType("q4_k", 12, 256, 144, 14),
    GGMLType("q5_k", 13, 256, 176, 16),
    GGMLType("q6_k", 14, 256, 210, 18),
    GGMLType("iq2_xxs", 16, 256, 66, 19),
    GGMLType("iq2_xs", 17, 256, 74, 20),
    GGMLType("iq3_xxs", 18, 256, 98, 23),
    GGMLType("iq1_s", 19, 256, 50, 24),
    GGMLType("iq4_nl", 20, 32, 18, 25),
    GGMLType("iq3_s", 21, 256, 110, 26),
    GGMLType("iq2_s", 22, 256, 82, 29),
    GGMLType("iq4_xs", 23, 256, 136, 30),
    GGMLType("i8", 24, 1, 1),
    GGMLType("i16", 25, 1, 2),
    GGMLType("i32", 26, 1, 4),
    GGMLType("i64", 27, 1, 8),
    GGMLType("f64", 28, 1, 8),
    GGMLType("iq1_m", 29, 256, 56, 31),
    GGMLType("bf16", 30, 1, 2, 32),
    GGMLType("tq1_0", 34, 256, 54, 36),
    GGMLType("tq2_0", 35, 256, 66, 37),
    GGMLType("i2_s", I2_S, CODES_PER_BYTE, 1, 40),
    GGMLType("mxfp4", 39, 32, 17, 38),
)

GGML_TYPES = {kind.id: kind for kind in _ALL}
"""Every tensor type that files hold and whose size is known, by id."""


def ggml_type(type_id: int) -> GGMLType | None:
    """The type of that id, or None for one that is not known."""
    return GGML_TYPES.get(type_id)


def tensor_nbytes(type_id: int, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor, without padding; None for an unknown type or rows that are not whole blocks."""
    kind = GGML_TYPES.get(type_id)
    return None if kind is None else kind.nbytes(shape)
