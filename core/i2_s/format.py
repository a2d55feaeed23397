"""i2_s format: the facts that everything which reads or writes an i2_s tensor agrees on.

    n/4 bytes of codes | 4 bytes float32 scale | 28 zero bytes        value = scale · (code - 1), code 3 never occurs

A byte holds four codes, the first in its highest bits. Which four values those are is the layout:

    x86    p, p+32, p+64, p+96 of each 128 values     every converter written in Python, and C compiled for x86
    arm    p, p+16, p+32, p+48 of each 64 values      C compiled for ARM NEON since November 2025
    rows   rows 4r … 4r+3 of one column               C compiled for x86 without activation parallelism

Nothing in the bytes tells which layout they have; conform writes it into a key of the file.
"""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

__all__ = [
    "BLOCK_SIZE",
    "CODES_PER_BYTE",
    "I2_S",
    "LAYOUTS",
    "LAYOUT_KEY",
    "ROWS_TOGETHER",
    "TAIL",
    "USUAL_LAYOUT",
    "I2SLayout",
    "TernaryScale",
    "layout_of_variant",
    "layouts_that_fit",
    "variant_of_layout",
]

I2_S = 36
"""The tensor type's id, which only BitNet's fork of ggml knows."""

TAIL = 32
"""Bytes behind the codes of a tensor; the first four are the float32 scale."""

CODES_PER_BYTE = 4

I2SLayout: TypeAlias = Literal["x86", "arm", "rows"]

LAYOUTS: tuple[I2SLayout, ...] = get_args(I2SLayout)

USUAL_LAYOUT: I2SLayout = "x86"
"""The layout of a file that does not state one."""

LAYOUT_KEY = "conform.i2_s.layout"
"""The metadata key that states the layout of a file's i2_s tensors."""

BLOCK_SIZE: Mapping[I2SLayout, int] = {"x86": 128, "arm": 64, "rows": 1}
"""Consecutive values of a row that are packed together."""

ROWS_TOGETHER: Mapping[I2SLayout, int] = {"x86": 1, "arm": 1, "rows": 4}
"""Rows that are packed together."""

TernaryScale: TypeAlias = Literal["absmean", "optimal"]
"""How a matrix that is not ternary gets its scale: by BitNet's rule, or with the least squared error."""


def layouts_that_fit(shape: tuple[int, ...]) -> tuple[I2SLayout, ...]:
    """The layouts in which a tensor of that shape can be stored."""
    rows, cols = (math.prod(shape[:-1]), shape[-1])
    return tuple(layout for layout in LAYOUTS if cols % BLOCK_SIZE[layout] == 0 and rows % ROWS_TOGETHER[layout] == 0)


def variant_of_layout(layout: str) -> str:
    """The `variant` of a quantizer's Layout: the usual layout has none, any other is called as it is."""
    return "" if layout == USUAL_LAYOUT else layout


def layout_of_variant(variant: str) -> str:
    """The inverse of `variant_of_layout`."""
    return variant or USUAL_LAYOUT
