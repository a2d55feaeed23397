"""GGUF writer: the bytes of a header from typed facts."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conform.core.errors import ExportError
from conform.core.gguf.types import ValueType
from conform.core.metadata import KeyValue

__all__ = ["ALIGNMENT", "TensorEntry", "align", "encode_entry", "encode_header"]

ALIGNMENT = 32
"""What every file that is written here is aligned to; it is stated in `general.alignment` nevertheless."""

_VERSION = 3
_SCALARS: Mapping[ValueType, str] = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor's descriptor: shape in PyTorch's order, rows first; offset from the start of the data."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


def align(position: int, alignment: int = ALIGNMENT) -> int:
    """The first aligned position at or after that one."""
    return -(-position // alignment) * alignment


def encode_header(metadata: Mapping[str, KeyValue], tensors: Sequence[TensorEntry], alignment: int) -> bytes:
    """Everything before the tensor data, padding included.

    Raises ExportError naming a key whose value does not fit its type.
    """
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts.append(encode_entry(key, value))
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(
            struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, tensor.ggml_type, tensor.offset)
        )
    header = b"".join(parts)
    return header.ljust(align(len(header), alignment), b"\0")


def encode_entry(key: str, value: KeyValue) -> bytes:
    """One key of a header: its name, its type and its value.

    Raises ExportError naming a key whose value does not fit its type.
    """
    return _string(key) + _key_value(key, value)


def _key_value(key: str, value: KeyValue) -> bytes:
    try:
        if value.item is None:
            return struct.pack("<I", value.kind) + _scalar(value.kind, value.value)
        assert isinstance(value.value, tuple)
        items = b"".join(_scalar(value.item, item) for item in value.value)
        return struct.pack("<IIQ", ValueType.ARRAY, value.item, len(value.value)) + items
    except (struct.error, OverflowError, AttributeError, UnicodeEncodeError) as error:
        raise ExportError(f"{key}: {value.value!r:.80} does not fit {value.kind.name.lower()}: {error}") from error


def _scalar(kind: ValueType, value: object) -> bytes:
    return _string(str(value)) if kind is ValueType.STRING else struct.pack(_SCALARS[kind], value)


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content
