"""Importance: the weights that a search works with; and the refusal of scales that half precision cannot hold."""

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32
from conform.plugins.quantizers.search.grids import UInt16

__all__ = ["refuse_infinite", "relative_weights"]

_FLOOR = np.float32(1e-7)


def relative_weights(weights: Float32, block_size: int) -> Float32:
    """The weights (cols,) of each block divided by the block's largest, and at least 1e-7.

    They decide nothing but a block's scale and its levels, for which only their ratios count; relative to the largest,
    no product with a weight underflows. The floor gives columns of no importance their nearest level rather than an
    arbitrary one; in a block without any importance all columns count alike.
    """
    blocks = weights.reshape(-1, block_size)
    largest = blocks.max(axis=1, keepdims=True)
    relative = np.divide(blocks, largest, out=np.ones_like(blocks), where=largest > 0)
    floored: Float32 = np.maximum(relative, _FLOOR).reshape(-1)
    return floored


def refuse_infinite(name: str, halves: UInt16, block_size: int) -> None:
    """Raise QuantizeError naming the first block whose float16 scale, of (rows, blocks), is not finite."""
    infinite = (halves & 0x7C00) == 0x7C00
    if infinite.any():
        row, block = np.argwhere(infinite)[0]
        first = block * block_size
        raise QuantizeError(
            f"row {row}, columns {first} to {first + block_size - 1} need a scale above 65504, "
            f"the largest of half precision, in which {name} stores it"
        )
