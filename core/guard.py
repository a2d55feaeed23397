"""Guard: calls a quantizer that a third party may have written, and trusts nothing that comes back."""

import zlib

import numpy as np

from conform.core.errors import ConformError, PluginError, QuantizeError
from conform.core.quantizer import Float32, Packed, Quantizer

__all__ = ["dequantize_checked", "quantize_checked"]

_SAMPLE = 1 << 16


def quantize_checked(
    quantizer: Quantizer, owner: str, name: str, values: Float32, importance: Float32 | None, nbytes: int
) -> Packed:
    """The packed bytes of the tensor called `name`.

    Raises QuantizeError naming the tensor for values that the quantizer refuses, and PluginError naming the quantizer
    and its owner when it raises anything else, changes its input, or returns something other than `nbytes` bytes.
    """
    before = _fingerprint(values)
    try:
        packed = quantizer.quantize(values, importance)
    except QuantizeError as error:
        raise QuantizeError(f"{name}: {error}") from error
    except ConformError:
        raise
    except Exception as error:  # a third party's code may raise anything
        raise _blamed(quantizer, owner, name, f"failed: {type(error).__name__}: {error}") from error
    if _fingerprint(values) != before:
        raise _blamed(quantizer, owner, name, "changed its input")
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 1:
        found = f"{packed.dtype} of shape {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise _blamed(quantizer, owner, name, f"returned {found}; expected a vector of uint8")
    if packed.size != nbytes:
        raise _blamed(quantizer, owner, name, f"returned {packed.size} bytes, though it had promised {nbytes}")
    return np.ascontiguousarray(packed)


def dequantize_checked(quantizer: Quantizer, owner: str, name: str, packed: Packed, shape: tuple[int, ...]) -> Float32:
    """The decoded values.

    Raises QuantizeError naming the tensor for bytes that mean nothing, and PluginError naming the quantizer and its
    owner when it fails otherwise or returns another shape or dtype.
    """
    try:
        values = quantizer.dequantize(packed, shape)
    except QuantizeError as error:
        raise QuantizeError(f"{name}: {error}") from error
    except Exception as error:  # a third party's code may raise anything
        raise _blamed(quantizer, owner, name, f"failed to decode: {type(error).__name__}: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape != shape:
        raise _blamed(quantizer, owner, name, f"decoded to something other than float32 of shape {shape}")
    return values


def _blamed(quantizer: Quantizer, owner: str, name: str, what: str) -> PluginError:
    return PluginError(f"{name}: quantizer {quantizer.name} of {owner} {what}")


def _fingerprint(values: Float32) -> tuple[int, ...]:
    # The sum sees any changed value at the speed of memory; the checksums of both ends see a mere reordering.
    flat = values.reshape(-1).view(np.uint32)
    total = int(np.add.reduce(flat, dtype=np.uint64))
    return total, zlib.crc32(flat[:_SAMPLE].tobytes()), zlib.crc32(flat[-_SAMPLE:].tobytes())
