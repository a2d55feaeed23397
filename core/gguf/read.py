"""GGUF reader: independent, minimal and bounded; it shares no code with the writer and trusts no count.

"GGUF" | u32 version | u64 tensors | u64 keys | keys | tensor descriptors | padding to the alignment | tensor data
"""

import hashlib
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from conform.contract.bounded import open_regular
from conform.core.errors import GGUFError
from conform.core.files.sight import HEAD, mistaken
from conform.core.gguf.types import ValueType, ggml_type, tensor_nbytes
from conform.core.quantizer import Packed

__all__ = ["GGUFFile", "GGUFValue", "KeyType", "SizeRule", "TensorInfo", "read_gguf"]

GGUFValue: TypeAlias = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
"""A metadata value. Bytes that are not UTF-8 come as surrogate escapes, so that nothing is lost."""

SizeRule: TypeAlias = Callable[[int, tuple[int, ...]], int | None]
"""(type id, shape) → bytes, for types that are not known here; None where it does not know either."""

_DEFAULT_ALIGNMENT = 32
_LARGEST_ALIGNMENT = 1 << 16
_LONGEST_NAME = 1 << 12
_LONGEST_STRING = 1 << 24
_MOST_ITEMS = 1 << 22  # of all arrays together: Python objects take many times the room of their bytes
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 20
_SMALLEST_KEY = 8 + 1 + 4 + 1
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_FORMATS: Mapping[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class KeyType:
    """The type of a metadata value; `item` is that of an array's items."""

    kind: ValueType
    item: ValueType | None = None

    def __str__(self) -> str:
        return self.kind.name.lower() if self.item is None else f"array of {self.item.name.lower()}"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it: shape in PyTorch's order, rows first; offset from the file's start.

    `problem` says why the size is not known (then nbytes is 0), and is empty otherwise.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    nbytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a GGUF file; tensor data are mapped on request.

    `key_digests` maps each key to the sha256 of its bytes in the header: name, type and value.
    """

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, GGUFValue]
    key_types: Mapping[str, KeyType]
    key_digests: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    header_end: int
    data_start: int
    size: int

    def packed(self, name: str) -> Packed:
        """The bytes of one tensor, mapped read-only.

        Raises GGUFError for a name that is not there, a size that is not known, or data past the end of the file, and
        InputError when the file can no longer be read.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise GGUFError(f"{self.path}: no tensor {name}")
        if tensor.problem:
            raise GGUFError(f"{self.path}: {name}: {tensor.problem}")
        end = tensor.offset + tensor.nbytes
        with open_regular(self.path) as file:
            size = min(self.size, os.fstat(file.fileno()).st_size)
            if end > size:
                raise GGUFError(f"{self.path}: {name}: its data end at byte {end}, the file at {size}")
            if tensor.nbytes == 0:
                return np.empty(0, np.uint8)
            return np.asarray(np.memmap(file, np.uint8, "r", tensor.offset, (tensor.nbytes,)))


def read_gguf(path: Path, sizes: SizeRule | None = None) -> GGUFFile:
    """The header of a GGUF file, version 2 or 3, little-endian.

    `sizes` gives the size of tensors whose type is unknown here. Data may be missing: see `packed`.
    Raises InputError for a file that cannot be read, and GGUFError for whatever cannot be parsed.
    """
    if path.is_dir():
        raise GGUFError(
            f"{path}: cannot be read: a folder, not a GGUF file; give the file that `conform export` writes"
        )
    with open_regular(path) as file:
        return _Parser(path, file, os.fstat(file.fileno()).st_size).parse(sizes or tensor_nbytes)


class _Parser:
    """Reads forward through a header; every length is compared with what is left before anything is allocated."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._position = 0
        self._items_left = _MOST_ITEMS
        self._digest = hashlib.sha256()

    def parse(self, sizes: SizeRule) -> GGUFFile:
        version = self._version()
        tensor_count = self._count("tensors", _SMALLEST_TENSOR, _MOST_TENSORS)
        key_count = self._count("keys", _SMALLEST_KEY, _MOST_KEYS)
        metadata: dict[str, GGUFValue] = {}
        key_types: dict[str, KeyType] = {}
        key_digests: dict[str, str] = {}
        for _ in range(key_count):
            self._digest = hashlib.sha256()
            key = self._name("key")
            if key in metadata:
                raise self._error(f"key {key!r} occurs twice")
            key_types[key], metadata[key] = self._value(key)
            key_digests[key] = self._digest.hexdigest()
        self._refuse_part(metadata)
        alignment = self._alignment(metadata, key_types)
        raw = [self._descriptor() for _ in range(tensor_count)]
        header_end = self._position
        data_start = -(-header_end // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, type_id, offset in raw:
            if name in tensors:
                raise self._error(f"tensor {name!r} occurs twice")
            tensors[name] = _tensor(name, shape, type_id, data_start + offset, sizes)
        return GGUFFile(
            path=self._path,
            version=version,
            alignment=alignment,
            metadata=metadata,
            key_types=key_types,
            key_digests=key_digests,
            tensors=tensors,
            header_end=header_end,
            data_start=data_start,
            size=self._size,
        )

    def _error(self, problem: str) -> GGUFError:
        return GGUFError(f"{self._path}: {problem} (at byte {self._position})")

    def _take(self, length: int, what: str) -> bytes:
        if length > self._size - self._position:
            raise self._error(f"truncated: {what} takes {length} bytes, {self._size - self._position} are left")
        content = self._file.read(length)
        if len(content) != length:
            raise self._error(f"truncated: the file shrank while {what} was read")
        self._position += length
        self._digest.update(content)
        return content

    def _number(self, kind: ValueType, what: str) -> int | float:
        code = "<" + _FORMATS[kind]
        value: int | float = struct.unpack(code, self._take(struct.calcsize(code), what))[0]
        return value

    def _integer(self, kind: ValueType, what: str) -> int:
        return int(self._number(kind, what))

    def _version(self) -> int:
        magic = self._take(min(4, self._size), "the magic number")
        if magic != b"GGUF":
            sentence = mistaken(magic + self._file.read(HEAD), "a GGUF file", "give what `conform export` writes")
            raise GGUFError(f"{self._path}: {sentence or f'not a GGUF file: it starts with {magic!r}'}")
        version = self._integer(ValueType.UINT32, "the version")
        if version and version & 0xFFFF == 0:
            raise self._error("a big-endian GGUF file; only little-endian ones are read")
        if version not in (2, 3):
            raise self._error(f"GGUF version {version}; versions 2 and 3 are read")
        return version

    def _refuse_part(self, metadata: Mapping[str, GGUFValue]) -> None:
        count, number = metadata.get("split.count"), metadata.get("split.no")
        if isinstance(count, int) and count > 1:
            part = number + 1 if isinstance(number, int) else "one"
            raise GGUFError(
                f"{self._path}: part {part} of {count} of a split GGUF file; merge the parts first, with "
                "`llama-gguf-split --merge`"
            )

    def _count(self, what: str, smallest: int, most: int) -> int:
        count = self._integer(ValueType.UINT64, f"the number of {what}")
        if count > most or count * smallest > self._size - self._position:
            raise self._error(f"claims {count} {what}, which cannot be in a file of {self._size} bytes")
        return count

    def _text(self, what: str, longest: int) -> str:
        length = self._integer(ValueType.UINT64, f"the length of {what}")
        if length > longest:
            raise self._error(f"{what} has a length of {length}; at most {longest} is read")
        return self._take(length, what).decode("utf-8", "surrogateescape")

    def _name(self, what: str) -> str:
        name = self._text(f"the name of a {what}", _LONGEST_NAME)
        if not name or not name.isprintable():
            raise self._error(f"a {what} is named {name[:80]!r}; names hold printable characters only")
        return name

    def _type(self, key: str) -> ValueType:
        type_id = self._integer(ValueType.UINT32, f"the type of {key}")
        try:
            return ValueType(type_id)
        except ValueError:
            raise self._error(f"{key}: unknown value type {type_id}") from None

    def _value(self, key: str) -> tuple[KeyType, GGUFValue]:
        kind = self._type(key)
        if kind is ValueType.ARRAY:
            item = self._type(key)
            return KeyType(kind, item), self._array(key, item)
        return KeyType(kind), self._scalar(key, kind)

    def _scalar(self, key: str, kind: ValueType) -> str | int | float | bool:
        if kind is ValueType.STRING:
            return self._text(key, _LONGEST_STRING)
        if kind is ValueType.BOOL:
            return self._bools(key, 1)[0]
        return self._number(kind, key)

    def _array(self, key: str, item: ValueType) -> GGUFValue:
        if item is ValueType.ARRAY:
            raise self._error(f"{key}: an array of arrays; only arrays of scalars and strings are read")
        count = self._integer(ValueType.UINT64, f"the length of {key}")
        width = 8 if item is ValueType.STRING else struct.calcsize(_FORMATS.get(item, "B"))
        if count > self._items_left or count * width > self._size - self._position:
            raise self._error(f"{key}: claims {count} items, which cannot be in this file")
        self._items_left -= count
        if item is ValueType.STRING:
            return [self._text(key, _LONGEST_STRING) for _ in range(count)]
        if item is ValueType.BOOL:
            return self._bools(key, count)
        values: list[int] | list[float] = np.frombuffer(
            self._take(count * width, key), np.dtype(_FORMATS[item]).newbyteorder("<")
        ).tolist()
        return values

    def _bools(self, key: str, count: int) -> list[bool]:
        content = self._take(count, key)
        if content.strip(b"\0\1"):
            raise self._error(f"{key}: a boolean that is neither 0 nor 1")
        return [byte == 1 for byte in content]

    def _alignment(self, metadata: Mapping[str, GGUFValue], key_types: Mapping[str, KeyType]) -> int:
        if "general.alignment" not in metadata:
            return _DEFAULT_ALIGNMENT
        value = metadata["general.alignment"]
        if key_types["general.alignment"].kind is not ValueType.UINT32 or not isinstance(value, int):
            raise self._error(f"general.alignment is of type {key_types['general.alignment']}, expected uint32")
        if value.bit_count() != 1 or not 8 <= value <= _LARGEST_ALIGNMENT:
            raise self._error(f"general.alignment = {value}: expected a power of two from 8 to {_LARGEST_ALIGNMENT}")
        return value

    def _descriptor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._name("tensor")
        dimensions = self._integer(ValueType.UINT32, f"the number of dimensions of {name}")
        if not 1 <= dimensions <= 4:
            raise self._error(f"{name}: {dimensions} dimensions; expected 1 to 4")
        shape = tuple(self._integer(ValueType.UINT64, f"the shape of {name}") for _ in range(dimensions))[::-1]
        if 0 in shape or math.prod(shape) >= 1 << 60:
            raise self._error(f"{name}: no tensor has the shape {shape}")
        type_id = self._integer(ValueType.UINT32, f"the type of {name}")
        offset = self._integer(ValueType.UINT64, f"the offset of {name}")
        if offset >= 1 << 62:
            raise self._error(f"{name}: offset {offset} is beyond any file")
        return name, shape, type_id, offset


def _tensor(name: str, shape: tuple[int, ...], type_id: int, offset: int, sizes: SizeRule) -> TensorInfo:
    nbytes = tensor_nbytes(type_id, shape)
    if nbytes is None:
        nbytes = sizes(type_id, shape)
    if nbytes is not None:
        return TensorInfo(name, shape, type_id, offset, nbytes)
    kind = ggml_type(type_id)
    problem = f"unknown tensor type {type_id}"
    if kind is not None:
        problem = f"rows of {shape[-1]} values are not a multiple of {kind.block_size}, which {kind.name} needs"
    return TensorInfo(name, shape, type_id, offset, 0, problem)
