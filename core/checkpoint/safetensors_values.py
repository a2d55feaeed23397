"""Safetensors values: the bytes of one stored tensor as float32, read in pieces where that will do."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from conform.contract.bounded import open_regular
from conform.core.checkpoint.safetensors_header import StoredTensor
from conform.core.errors import CheckpointError
from conform.core.quantizer import Float32

__all__ = ["check_finite", "equal_bytes", "read_values"]

# Bytes of one read: large enough for the disk, small beside a tensor, a whole number of values of any dtype.
_CHUNK = 16 << 20
# dtype → its bits as a whole number, and those of the exponent: all of them are set in NaN and infinity alone.
_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def read_values(name: str, tensor: StoredTensor) -> Float32:
    """The values as float32, a fresh array in the stored shape; half precision is widened exactly.

    Raises CheckpointError for a dtype that holds no weights or a truncated file, InputError when it cannot be read.
    """
    raw = _read_raw(name, tensor)
    if tensor.dtype == "F32":
        return raw.view("<f4").reshape(tensor.shape)
    if tensor.dtype == "F16":
        with np.errstate(invalid="ignore"):  # a signalling NaN is reported by whoever checks the values
            return raw.view("<f2").astype(np.float32).reshape(tensor.shape)
    if tensor.dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32)
        return np.left_shift(wide, 16, out=wide).view(np.float32).reshape(tensor.shape)
    raise _no_weights(name, tensor)


def check_finite(name: str, tensor: StoredTensor) -> None:
    """Pass when every value is finite.

    Raises CheckpointError naming the tensor and the place of its first NaN or infinity.
    """
    if tensor.dtype not in _EXPONENTS:
        raise _no_weights(name, tensor)
    kind, mask = _EXPONENTS[tensor.dtype]
    seen = 0
    for chunk in _chunks(tensor):
        bits = np.frombuffer(chunk, np.dtype(kind))
        bad = (bits & bits.dtype.type(mask)) == mask
        if bad.any():
            index = np.unravel_index(seen + int(np.argmax(bad)), tensor.shape or (1,))
            value = read_values(name, tensor).reshape(tensor.shape or (1,))[index]
            place = [int(i) for i in index]
            raise CheckpointError(f"{tensor.path}: {name}: the value at {place} is {value}; expected finite weights")
        seen += len(bits)


def equal_bytes(left: StoredTensor, right: StoredTensor) -> bool:
    """True when two tensors have the same dtype, shape and bytes."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return all(a == b for a, b in zip(_chunks(left), _chunks(right), strict=True))


def _chunks(tensor: StoredTensor) -> Iterator[bytes]:
    with open_regular(tensor.path) as file:
        file.seek(tensor.offset)
        for start in range(0, tensor.nbytes, _CHUNK):
            wanted = min(_CHUNK, tensor.nbytes - start)
            chunk = file.read(wanted)
            if len(chunk) != wanted:
                raise CheckpointError(f"{tensor.path}: the file was truncated while it was read")
            yield chunk


def _read_raw(name: str, tensor: StoredTensor) -> NDArray[np.uint8]:
    # Read, not mapped: a file that shrinks meanwhile is then an error, where a mapping would kill the process.
    raw = np.empty(tensor.nbytes, np.uint8)
    with open_regular(tensor.path) as file:
        file.seek(tensor.offset)
        found = file.readinto(memoryview(raw.data))
    if found != tensor.nbytes:
        raise CheckpointError(
            f"{tensor.path}: {name}: {found} of {tensor.nbytes} bytes are left; the file was truncated"
        )
    return raw


def _no_weights(name: str, tensor: StoredTensor) -> CheckpointError:
    return CheckpointError(f"{tensor.path}: {name}: dtype {tensor.dtype} holds no weights; expected F32, F16 or BF16")
