"""i2_s layouts: packing and unpacking codes in each of them, and how to tell which one a file has.

Decoded in a wrong layout, the values of a row (or of four rows) are shuffled: every count stays as it was, but what
belongs to one hidden channel is spread over others. In a trained model the channels differ, and the matrices that write
to a channel and those that read from it agree about that; so the right layout is the one in which they correlate.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import GGUFError
from conform.core.gguf.read import GGUFFile
from conform.core.i2_s.format import (
    BLOCK_SIZE,
    CODES_PER_BYTE,
    I2_S,
    LAYOUTS,
    ROWS_TOGETHER,
    TAIL,
    I2SLayout,
    layouts_that_fit,
)
from conform.core.quantizer import Packed

__all__ = ["layout_evidence", "pack_codes", "unpack_codes"]

_SHIFTS = np.array([6, 4, 2, 0], np.uint8)

_Profile: TypeAlias = NDArray[np.float64]


def unpack_codes(packed: Packed, layout: I2SLayout, shape: tuple[int, ...]) -> Packed:
    """Codes 0, 1, 2 (or 3, where a file is damaged) of `packed`, which has no tail, in that shape."""
    groups = packed.reshape(-1, 1, _lanes(layout, shape))
    return (groups >> _SHIFTS[:, None] & np.uint8(3)).reshape(shape)


def pack_codes(codes: Packed, layout: I2SLayout) -> Packed:
    """The inverse of `unpack_codes`."""
    groups = codes.reshape(-1, CODES_PER_BYTE, _lanes(layout, codes.shape)) << _SHIFTS[:, None]
    packed: Packed = np.bitwise_or.reduce(groups, axis=1).reshape(-1)
    return packed


def layout_evidence(file: GGUFFile) -> Mapping[I2SLayout, float]:
    """Layout → standard deviations by which channels correlate more than chance would make them.

    Only layouts that fit every i2_s tensor are there.
    """
    tensors = [tensor for tensor in file.tensors.values() if tensor.ggml_type == I2_S]
    fitting = [layout for layout in LAYOUTS if all(layout in layouts_that_fit(t.shape) for t in tensors)]
    return {layout: _evidence(file, layout) for layout in fitting}


def _lanes(layout: I2SLayout, shape: tuple[int, ...]) -> int:
    """How many bytes lie side by side, each holding the same place of a group of four values."""
    return shape[-1] if ROWS_TOGETHER[layout] > 1 else BLOCK_SIZE[layout] // CODES_PER_BYTE


def _evidence(file: GGUFFile, layout: I2SLayout) -> float:
    scores = [_significance(written, read) for written, read in _pairs(file, layout)]
    # Independent standard normal scores add up to one whose deviation is the root of their number.
    return float(np.sum(scores) / np.sqrt(len(scores))) if scores else 0.0


def _pairs(file: GGUFFile, layout: I2SLayout) -> Iterator[tuple[_Profile, _Profile]]:
    """Profiles of the same channels, as a matrix writes them and as another one reads them."""
    blocks = sorted({name.split(".")[1] for name in file.tensors if name.startswith("blk.")})
    for block in blocks:
        density = {
            role: _density(file, f"blk.{block}.{role}.weight", layout)
            for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        }
        for writer, reader in (
            ("ffn_gate", "ffn_down"),
            ("ffn_up", "ffn_down"),
            ("attn_output", "ffn_gate"),
            ("attn_output", "ffn_up"),
            ("ffn_down", "attn_q"),
            ("ffn_down", "attn_k"),
            ("ffn_down", "attn_v"),
        ):
            written, read = (density[writer], density[reader])
            if written is not None and read is not None and len(written[0]) == len(read[1]):
                yield written[0], read[1]


def _density(file: GGUFFile, name: str, layout: I2SLayout) -> tuple[_Profile, _Profile] | None:
    """Share of values other than zero in each row and in each column; None unless the tensor is an i2_s matrix."""
    tensor = file.tensors.get(name)
    if tensor is None or tensor.ggml_type != I2_S or len(tensor.shape) != 2:
        return None
    codes = unpack_codes(file.packed(name)[:-TAIL], layout, tensor.shape)
    if (codes == 3).any():
        raise GGUFError(f"{file.path}: {name}: holds code 3, which means nothing; the file is damaged, or not i2_s")
    used = codes != 1
    return used.mean(axis=1), used.mean(axis=0)


def _significance(left: _Profile, right: _Profile) -> float:
    """Fisher's z of the rank correlation's magnitude, in standard deviations, less what chance gives on average."""
    ranks = [np.argsort(np.argsort(profile, kind="stable"), kind="stable").astype(float) for profile in (left, right)]
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    z = abs(np.arctanh(np.clip(correlation, -0.999999, 0.999999))) * np.sqrt(len(left) - 3)
    # The magnitude of a standard normal variable has this mean and this deviation.
    return float((z - np.sqrt(2 / np.pi)) / np.sqrt(1 - 2 / np.pi))
