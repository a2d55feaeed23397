"""Verify values: the bytes of a GGUF file's tensors, decoded piece by piece, so that no whole tensor is in memory."""

from collections.abc import Iterator

import numpy as np

from conform.contract.finding import Finding
from conform.core.catalog import Catalog
from conform.core.codec import Codec
from conform.core.errors import ConformError, QuantizeError
from conform.core.gguf.read import GGUFFile, TensorInfo
from conform.core.gguf.types import ggml_type
from conform.core.i2_s.format import I2_S, TAIL
from conform.core.quantizer import Packed

__all__ = ["check_values"]

# Values that are decoded at a time.
_PIECE = 1 << 20
_WHOLE_NUMBERS = ("i8", "i16", "i32", "i64")


def check_values(file: GGUFFile, catalog: Catalog) -> Iterator[Finding]:
    """NaN and infinity in any tensor, broken i2_s tensors, padding that is not zero."""
    yield from _check_padding(file, "the header", file.header_end, file.data_start)
    for tensor in file.tensors.values():
        end = tensor.offset + tensor.nbytes
        if tensor.problem or end > file.size:
            continue  # reported already
        if tensor.ggml_type == I2_S:
            yield from _check_i2_s(tensor, file.packed(tensor.name))
        else:
            yield from _check_finite(tensor, file.packed(tensor.name), catalog)
        yield from _check_padding(file, tensor.name, end, -(-end // file.alignment) * file.alignment)


def _check_padding(file: GGUFFile, after: str, start: int, end: int) -> Iterator[Finding]:
    with file.path.open("rb") as content:
        content.seek(start)
        padding = content.read(end - start)
    if any(padding):
        yield Finding("error", f"padding after {after}", "zeros", f"{sum(map(bool, padding))} other bytes")


def _check_finite(tensor: TensorInfo, packed: Packed, catalog: Catalog) -> Iterator[Finding]:
    try:
        decoder = catalog.decoder(tensor.ggml_type)
    except ConformError:
        kind = ggml_type(tensor.ggml_type)
        name = kind.name if kind else f"type {tensor.ggml_type}"
        if name in _WHOLE_NUMBERS:
            yield Finding("error", tensor.name, "a type that holds weights", name)
            return
        yield Finding("warning", tensor.name, "a type that can be decoded", name, "its values were not checked")
        return
    try:
        row = _first_bad_row(tensor, packed, decoder)
    except QuantizeError as error:
        yield Finding("error", tensor.name, "bytes that can be decoded", str(error))
        return
    if row is not None:
        hint = "a runtime would compute NaN from it"
        yield Finding("error", tensor.name, "finite values only", f"NaN or infinity in row {row}", hint)


def _first_bad_row(tensor: TensorInfo, packed: Packed, decoder: Codec) -> int | None:
    cols = tensor.shape[-1]
    rows = packed.size and int(np.prod(tensor.shape[:-1], dtype=np.int64))
    row_bytes = packed.size // max(rows, 1)
    step = max(1, _PIECE // cols)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        piece = np.ascontiguousarray(packed[start * row_bytes : (start + count) * row_bytes])
        with np.errstate(invalid="ignore", over="ignore"):
            values = decoder.unpack(tensor.name, piece, (count, cols))
            finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
    return None


def _check_i2_s(tensor: TensorInfo, packed: Packed) -> Iterator[Finding]:
    codes, tail = (packed[:-TAIL], packed[-TAIL:])
    threes = 0
    for start in range(0, codes.size, _PIECE):
        piece = codes[start : start + _PIECE]
        threes += int(np.count_nonzero(piece & (piece >> 1) & 0x55))
    if threes:
        hint = "codes are 0, 1 and 2; the tensor is damaged or in a foreign layout"
        yield Finding("error", tensor.name, "no code 3", f"it occurs in {threes} bytes", hint)
    scale = float(tail[:4].copy().view("<f4")[0])
    if not np.isfinite(scale) or scale <= 0:
        yield Finding("error", tensor.name, "a finite scale above 0", str(scale))
    if tail[4:].any() and (tail.reshape(8, 4) != tail[:4]).any():
        hint = "readers use the first four bytes only"
        yield Finding("warning", tensor.name, "28 zero bytes behind the scale", "other bytes", hint)
