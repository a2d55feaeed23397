"""Independent: agreement with a decoder that somebody else wrote, where the layout is a known GGML type."""

from collections.abc import Callable

import numpy as np

from conform.core.gguf.types import GGML_TYPES, I2_S
from conform.core.quantizer import Float32, Packed
from conform.plugins.testing.check import Check, NotApplicable, require
from conform.plugins.testing.subject import Subject

__all__ = ["CHECKS", "independent_decoder"]

_RANDOM_ROWS = 32


def independent_decoder(ggml_type: int, variant: str = "") -> Callable[[Packed, tuple[int, ...]], Float32] | None:
    """The decoder of the `gguf` package, for i2_s a plain loop over its description; None where neither exists.

    Only the usual variant of a type has one.
    """
    if variant:
        return None
    if ggml_type == I2_S:
        return _decode_i2_s
    return _decoder_of_gguf(ggml_type) if ggml_type in GGML_TYPES else None


def _decoder_of_gguf(ggml_type: int) -> Callable[[Packed, tuple[int, ...]], Float32] | None:
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(ggml_type)
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        return None

    def decode(packed: Packed, shape: tuple[int, ...]) -> Float32:
        decoded: Float32 = gguf.quants.dequantize(packed.reshape(shape[0], -1), kind)
        return decoded.astype(np.float32, copy=False).reshape(shape)

    return decode


def _decode_i2_s(packed: Packed, shape: tuple[int, ...]) -> Float32:
    """One value after the other, as the format is described."""
    scale = np.frombuffer(packed.tobytes(), "<f4", 1, len(packed) - 32)[0]
    count = shape[0] * shape[1]
    values = np.empty(count, np.float32)
    for i in range(count):
        block, place = divmod(i, 128)
        quarter, lane = divmod(place, 32)
        code = int(packed[32 * block + lane]) >> (6 - 2 * quarter) & 3
        values[i] = np.float32(code - 1) * scale
    return values.reshape(shape)


def _independent(subject: Subject) -> str:
    layout = subject.quantizer.layout
    decoder = independent_decoder(layout.ggml_type, layout.variant)
    if decoder is None:
        raise NotApplicable(f"nobody else decodes GGML type {layout.ggml_type}, variant {layout.variant or 'none'}")
    for values in (subject.gaussian(16), subject.heavy_tailed(17), np.zeros(subject.shape, np.float32)):
        packed = subject.encode(values)
        _agree("packed values", subject.decode(packed), decoder(packed, subject.shape))
    if layout.ggml_type == I2_S:
        return "equal bit for bit on packed values"
    shape = (_RANDOM_ROWS, subject.cols)
    noise = np.random.default_rng(18).integers(0, 256, subject.quantizer.nbytes(shape), np.uint8)
    _agree("random bytes", subject.decode(noise, shape), decoder(noise, shape))
    return "equal bit for bit on packed values and on random bytes"


def _agree(what: str, ours: Float32, theirs: Float32) -> None:
    # Random bytes hold NaN scales; which NaN they decode to is not promised.
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    if not same.all():
        row, col = np.argwhere(~same)[0]
        found = f"{what}: {ours[row, col]!r} at row {row}, column {col}"
        require(False, f"{found}, the independent decoder gives {theirs[row, col]!r}")


CHECKS = (Check("independent", "a decoder that somebody else wrote reads the same values", _independent),)
