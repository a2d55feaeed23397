"""Sizes: the members of the protocol, the size law, shapes that fit and shapes that do not."""

from collections.abc import Callable
from functools import partial

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.gguf.types import GGML_TYPES
from conform.core.quantizer import Layout, Quantizer
from conform.plugins.testing.check import Check, CheckFailed, require
from conform.plugins.testing.subject import Subject

__all__ = ["CHECKS", "refuses"]


def refuses(what: str, action: Callable[[], object]) -> None:
    """Raises CheckFailed unless the action raises QuantizeError with a message."""
    try:
        action()
    except QuantizeError as error:
        require(bool(str(error).strip()), f"{what}: refused without saying why")
    except Exception as error:
        raise CheckFailed(f"{what}: raised {type(error).__name__}, expected QuantizeError") from error
    else:
        raise CheckFailed(f"{what}: accepted, expected QuantizeError")


def _protocol(subject: Subject) -> str:
    quantizer = subject.quantizer
    require(isinstance(quantizer, Quantizer), "a member of the protocol Quantizer is missing")
    require(isinstance(quantizer.name, str), f"name is {quantizer.name!r}")
    require(isinstance(quantizer.layout, Layout), f"layout is {quantizer.layout!r}")
    require(quantizer.layout.block_size >= 1, f"block_size is {quantizer.layout.block_size}")
    require(isinstance(quantizer.needs_importance, bool), f"needs_importance is {quantizer.needs_importance!r}")
    if not quantizer.needs_importance:
        quantizer.quantize(subject.gaussian(), None)
    else:
        refuses("no importance", lambda: quantizer.quantize(subject.gaussian(), None))
    return f"GGML type {quantizer.layout.ggml_type}, blocks of {quantizer.layout.block_size}"


def _size_law(subject: Subject) -> str:
    quantizer, rows, cols = subject.quantizer, subject.rows_together, subject.cols
    sizes = [quantizer.nbytes((k * rows, cols)) for k in range(1, 6)]
    require(all(type(size) is int and size > 0 for size in sizes), f"nbytes returned {sizes}")
    require(len(set(np.diff(sizes))) == 1, f"{rows} more rows take {np.diff(sizes).tolist()} more bytes")
    for shape in ((rows, subject.block), (rows, cols), (3 * rows, 3 * subject.block), subject.shape):
        packed = subject.encode(subject.gaussian(shape=shape))
        expected = quantizer.nbytes(shape)
        require(len(packed) == expected, f"{shape}: {len(packed)} bytes, nbytes promised {expected}")
    known = GGML_TYPES.get(quantizer.layout.ggml_type)
    if known:
        law, found = known.nbytes(subject.shape), quantizer.nbytes(subject.shape)
        require(law == found, f"{subject.shape}: {found} bytes, GGML type {known.id} ({known.name}) has {law}")
    return f"{subject.bits:.4g} bits a value" + (f" and {subject.tail_bytes} bytes a tensor" * bool(subject.tail_bytes))


def _shapes(subject: Subject) -> str:
    values = subject.gaussian()
    packed = subject.pack(values.copy())
    require(packed.dtype == np.uint8 and packed.ndim == 1, f"packed is {packed.dtype} of shape {packed.shape}")
    decoded = subject.decode(packed)
    require(decoded.dtype == np.float32, f"decoded values are {decoded.dtype}")
    require(decoded.shape == values.shape, f"decoded shape is {decoded.shape}, expected {values.shape}")
    wide = np.zeros((values.shape[0], 2 * values.shape[1]), np.float32)
    wide[:, ::2] = values
    for what, view in (("a strided", wide[:, ::2]), ("a column-major", np.asfortranarray(values))):
        require(np.array_equal(subject.pack(view), packed), f"{what} array gives other bytes than its copy")
    return _vector(subject)


def _vector(subject: Subject) -> str:
    values = subject.gaussian(shape=(subject.cols,))
    try:
        size = subject.quantizer.nbytes(values.shape)
    except QuantizeError:
        refuses("quantize() of a vector", lambda: subject.encode(values))
        return "matrices; vectors are refused"
    packed = subject.encode(values)
    require(len(packed) == size, f"a vector has {len(packed)} bytes, nbytes promised {size}")
    require(subject.decode(packed, values.shape).shape == values.shape, "a vector is decoded to another shape")
    return "matrices and vectors"


def _bad_shapes(subject: Subject) -> str:
    quantizer, rows, block = subject.quantizer, subject.rows_together, subject.block
    wrong: list[tuple[int, ...]] = [(), (0,), (rows, 0)]
    if block > 1:
        wrong += [(rows, block - 1), (rows, block + 1), (rows, subject.cols + block // 2)]
    for shape in wrong:
        refuses(f"nbytes({shape})", partial(quantizer.nbytes, shape))
        refuses(f"quantize() of shape {shape}", partial(subject.encode, np.zeros(shape, np.float32)))
    packed = subject.encode(subject.gaussian())
    for what, some in (("one byte too few", packed[:-1]), ("one byte too many", np.append(packed, packed[:1]))):
        refuses(f"dequantize() of {what}", partial(subject.decode, some))
    return f"{len(wrong)} shapes and 2 sizes refused"


CHECKS = (
    Check("protocol", "every member is there, with its type; no importance is needed unless stated", _protocol),
    Check("size-law", "quantize() gives exactly nbytes() bytes, and rows add up", _size_law),
    Check("shapes", "any array of a fitting shape, in any memory order; float32 of that shape comes back", _shapes),
    Check("bad-shapes", "shapes and sizes that do not fit are refused with QuantizeError", _bad_shapes),
)
