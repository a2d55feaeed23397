"""Safetensors header: a bounded parser that trusts no length, offset or name.

u64 length n | n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}} | tensor data
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.contract.bounded import open_regular
from conform.contract.mapping import shown
from conform.core.errors import CheckpointError
from conform.core.files.sight import HEAD, mistaken

__all__ = ["StoredTensor", "read_safetensors_header"]

_LARGEST_HEADER = 100 << 20
_MOST_DIMENSIONS = 8
_LONGEST_NAME = 1 << 12
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: its file, its absolute offset and its size in bytes."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one safetensors file, in the file's order.

    Raises CheckpointError for a header that is too large, malformed, or describes data that overlap, leave gaps or lie
    outside the file, and InputError for a file that cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_by_sight(path, file.read(HEAD))
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path}: truncated: {size} bytes cannot hold a safetensors header")
        if length > _LARGEST_HEADER:
            raise CheckpointError(f"{path}: a header of {length} bytes; no checkpoint needs over {_LARGEST_HEADER}")
        content = file.read(length)
    tensors = {
        name: _tensor(path, name, entry, 8 + length)
        for name, entry in _parse(path, content).items()
        if name != "__metadata__"
    }
    _check_extents(path, tensors, 8 + length, size)
    return tensors


def _refuse_by_sight(path: Path, head: bytes) -> None:
    advice = "give the one that it was exported from" if head[:4] == b"GGUF" else "give a folder or a safetensors file"
    if head[8:9] != b"{" and (sentence := mistaken(head, "a safetensors checkpoint", advice)):
        raise CheckpointError(f"{path}: {sentence}")


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file: its header is a {type(header).__name__}")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name[:80]!r} occurs twice")
        result[name] = value
    return result


def _tensor(path: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise CheckpointError(
            f"{path}: a tensor is named {name[:80]!r}; names hold up to {_LONGEST_NAME} printable characters only"
        )
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise CheckpointError(f"{path}: {name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = (entry["dtype"], entry["shape"], entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{path}: {name}: unknown dtype {shown(dtype)}")
    if not _whole_numbers(shape) or len(shape) > _MOST_DIMENSIONS:
        raise CheckpointError(f"{path}: {name}: shape is not a list of up to {_MOST_DIMENSIONS} whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{path}: {name}: data_offsets is not a pair of rising whole numbers")
    expected = math.prod(shape) * _BITS[dtype] // 8
    if offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{path}: {name}: {offsets[1] - offsets[0]} bytes of data, but {dtype} of shape {tuple(shape)} "
            f"takes {expected}"
        )
    return StoredTensor(name, path, dtype, tuple(shape), data_start + offsets[0], expected)


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_extents(path: Path, tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset < end:
            raise CheckpointError(f"{path}: {name}: its data overlap those of another tensor")
        if tensor.offset > end:
            raise CheckpointError(f"{path}: {name}: {tensor.offset - end} bytes before it belong to no tensor")
        end = tensor.offset + tensor.nbytes
    if end > size:
        raise CheckpointError(f"{path}: truncated: the tensors end at byte {end}, the file at {size}")
    if end < size:
        raise CheckpointError(f"{path}: {size - end} bytes after the last tensor belong to no tensor")
