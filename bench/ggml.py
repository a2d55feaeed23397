"""ggml's own quantizers through ctypes: the peer that the bench measures against.

Needs only `libggml-base`, the library that llama-cpp-python ships; nothing of llama_cpp is imported.
"""

import ctypes
import importlib.util
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import ConformError, QuantizeError

__all__ = ["Ggml", "GgmlMissingError", "find_library"]

_NAMES = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
_LAST_TYPE = 35  # tq2_0; the library reads past its table for an id that it does not know, and later ids are not ours


class GgmlMissingError(ConformError):
    """No ggml library to measure against."""


def find_library() -> Path:
    """The path of libggml-base: `CONFORM_GGML` (a file or a folder), or that of an installed llama-cpp-python.

    Raises GgmlMissingError saying what to install.
    """
    if asked := os.environ.get("CONFORM_GGML"):
        return _library_in(Path(asked))
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise GgmlMissingError(
            "llama-cpp-python is not installed: pip install 'gguf-conform[bench]', "
            "or set CONFORM_GGML to the folder that holds libggml-base"
        )
    return _library_in(Path(found.origin).parent / "lib")


def _library_in(place: Path) -> Path:
    if place.is_file():
        return place
    for name in _NAMES:
        if (place / name).is_file():
            return place / name
    raise GgmlMissingError(f"{place}: no libggml-base there; expected one of {', '.join(_NAMES)}")


class _Traits(ctypes.Structure):
    """The head of ggml's `struct ggml_type_traits`, as of ggml 0.25."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


class Ggml:
    """One loaded libggml-base. Calls release the interpreter lock and may come from several threads."""

    def __init__(self, library: Path | None = None) -> None:
        """Load the library, by default the one that find_library() finds.

        Raises GgmlMissingError when there is none or it cannot be loaded.
        """
        self.path = library or find_library()
        try:
            self._lib = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise GgmlMissingError(f"{self.path}: cannot be loaded: {error}") from error
        self._declare()

    def _declare(self) -> None:
        lib = self._lib
        lib.ggml_quantize_init.argtypes = [ctypes.c_int]
        lib.ggml_quantize_init.restype = None
        lib.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        lib.ggml_row_size.restype = ctypes.c_size_t
        lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
        lib.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
        lib.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        lib.ggml_validate_row_data.restype = ctypes.c_bool
        lib.ggml_version.restype = ctypes.c_char_p
        chunk = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        lib.ggml_quantize_chunk.argtypes = chunk
        lib.ggml_quantize_chunk.restype = ctypes.c_size_t

    @property
    def version(self) -> str:
        """The version that the library reports, such as 0.25.3."""
        return str(self._lib.ggml_version().decode())

    def type_name(self, ggml_type: int) -> str:
        """What ggml calls that type."""
        return str(self._traits(ggml_type).type_name.decode())

    def prepare(self, ggml_type: int) -> None:
        """Build ggml's search tables of that type, so that the first measured call does not pay for them."""
        self._traits(ggml_type)
        self._lib.ggml_quantize_init(ggml_type)

    def needs_importance(self, ggml_type: int) -> bool:
        """True where ggml aborts the process when it is given no importance matrix."""
        return bool(self._lib.ggml_quantize_requires_imatrix(ggml_type))

    def quantize(
        self, ggml_type: int, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """The packed rows as ggml quantizes them, (rows, row bytes); `importance` is (cols,).

        Raises QuantizeError where ggml would abort the process or read past the end of its input.
        """
        traits = self._traits(ggml_type)
        if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] % traits.blck_size:
            raise QuantizeError(f"ggml needs float32 rows of whole blocks of {traits.blck_size}, found {rows.shape}")
        if importance is None and self.needs_importance(ggml_type):
            raise QuantizeError(f"ggml aborts on {self.type_name(ggml_type)} without an importance matrix")
        if importance is not None and importance.shape != (rows.shape[1],):
            raise QuantizeError(f"importance has shape {importance.shape}, expected ({rows.shape[1]},)")
        rows = np.ascontiguousarray(rows)
        weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
        packed = np.zeros((len(rows), self._lib.ggml_row_size(ggml_type, rows.shape[1])), np.uint8)
        pointer = None if weights is None else weights.ctypes.data
        self._lib.ggml_quantize_chunk(ggml_type, rows.ctypes.data, packed.ctypes.data, 0, *rows.shape, pointer)
        return packed

    def dequantize(self, ggml_type: int, packed: NDArray[np.uint8], cols: int) -> NDArray[np.float32]:
        """The values of packed rows, (rows, cols) float32."""
        packed = np.ascontiguousarray(packed)
        size = self._lib.ggml_row_size(ggml_type, cols)
        if packed.size % size:
            raise QuantizeError(f"{packed.size} bytes are not whole rows of {size} bytes")
        values = np.empty((packed.size // size, cols), np.float32)
        self._traits(ggml_type).to_float(packed.ctypes.data, values.ctypes.data, values.size)
        return values

    def valid(self, ggml_type: int, packed: NDArray[np.uint8]) -> bool:
        """Whether ggml accepts these bytes: it refuses scales that are not finite."""
        packed = np.ascontiguousarray(packed)
        return bool(self._lib.ggml_validate_row_data(ggml_type, packed.ctypes.data, packed.nbytes))

    def knows(self, ggml_type: int) -> bool:
        """Whether that type can be quantized and decoded here."""
        if not 0 <= ggml_type <= _LAST_TYPE:
            return False
        traits = self._lib.ggml_get_type_traits(ggml_type).contents
        return bool(traits.blck_size) and bool(traits.to_float)

    def _traits(self, ggml_type: int) -> _Traits:
        if not self.knows(ggml_type):
            raise QuantizeError(f"ggml {self.version} neither writes nor reads type {ggml_type}")
        traits: _Traits = self._lib.ggml_get_type_traits(ggml_type).contents
        return traits
