"""Quantizer: the protocol of everything that turns float32 values into the bytes of one tensor, and back."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Effort", "Float32", "Layout", "Packed", "Quantizer", "Tunable"]

Float32: TypeAlias = NDArray[np.float32]
"""Values of a tensor, C-contiguous, in its logical shape: (rows, cols), or (n,) for a vector."""

Packed: TypeAlias = NDArray[np.uint8]
"""The bytes of one tensor exactly as a GGUF file holds them, one-dimensional."""

Effort: TypeAlias = Literal["fast", "default", "best"]
"""How much work a search may take: see --effort."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The identity of packed bytes: two quantizers with an equal layout each decode what the other wrote.

    `ggml_type` is a plain int, because type 36 (i2_s) is in no enum of the `gguf` package; `block_size` is the number
    of consecutive values that a block holds; `variant` tells apart layouts that share a type id.
    """

    ggml_type: int
    block_size: int
    variant: str = ""


@runtime_checkable
class Quantizer(Protocol):
    """Pure: no I/O, no global state, the input untouched, the same bytes on every machine and thread count."""

    name: ClassVar[str]
    """What is typed after --quant."""
    layout: ClassVar[Layout]
    needs_importance: ClassVar[bool]
    """True when quantize() refuses to work without an importance vector; none of the built-in quantizers does."""

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """The exact size of a packed tensor of that shape.

        Raises QuantizeError when the shape does not fit the layout's blocks.
        """
        ...

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        """The packed bytes; `importance` (cols,) weighs the squared error of each column, all rows alike.

        Raises QuantizeError for NaN, infinity and shapes that do not fit.
        """
        ...

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        """The float32 values of that shape which a runtime computes with, bit for bit."""
        ...


@runtime_checkable
class Tunable(Protocol):
    """A quantizer that searches, and can trade time for error."""

    def with_effort(self, effort: Effort) -> Quantizer:
        """The same quantizer, searching that hard; its layout is the same."""
        ...
