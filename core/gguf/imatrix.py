"""Importance matrix files: GGUF, read and written, and the older .dat, read.

.dat    i32 entries | entry: i32 length, name, i32 calls, i32 n, n f32 | optional: i32 chunks, i32 length, data set
GGUF    general.type = "imatrix"; per tensor f32 NAME.in_sum2 (1, cols) and NAME.counts (1, 1)
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from conform.contract.bounded import open_regular, read_bounded
from conform.contract.finding import Finding
from conform.contract.inventory import TensorSpec
from conform.core.errors import GGUFError
from conform.core.files.partial import PartialFile
from conform.core.gguf.read import GGUFFile, read_gguf
from conform.core.gguf.types import ValueType
from conform.core.gguf.write import ALIGNMENT, TensorEntry, align, encode_header
from conform.core.metadata import KeyValue, string, string_array, u32
from conform.core.quantizer import Float32

__all__ = ["ImportanceEntry", "ImportanceMatrix", "check_imatrix", "read_imatrix", "write_imatrix"]

_F32 = 0
_LONGEST_NAME = 1 << 12
_LARGEST_LEGACY = 2 << 30
_SMALLEST_ENTRY = 12
_SUMS = ".in_sum2"
_COUNTS = ".counts"


@dataclass(frozen=True, slots=True)
class ImportanceEntry:
    """What flowed into one matrix: sums (cols,) of squared activations, and how many of them were summed."""

    sums: Float32
    count: float

    @property
    def weights(self) -> Float32:
        """The mean square of each column, (cols,): what quantizers weigh squared errors by."""
        return self.sums / np.float32(self.count) if self.count else self.sums


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """Entries by GGUF tensor name, and where they come from; `provenance` holds `conform.*` keys."""

    entries: Mapping[str, ImportanceEntry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)

    def weights(self) -> dict[str, Float32]:
        """Tensor name → weights, for every tensor that has a measurement."""
        return {name: entry.weights for name, entry in self.entries.items() if entry.count and entry.sums.any()}


def read_imatrix(path: Path) -> ImportanceMatrix:
    """An importance matrix in either format.

    Raises InputError naming the file when it cannot be read, is neither, or is truncated.
    """
    with open_regular(path) as file:
        magic = file.read(4)
    if magic == b"GGUF":
        return _from_gguf(read_gguf(path))
    return _LegacyParser(path, read_bounded(path, _LARGEST_LEGACY, "an importance matrix")).parse()


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write the GGUF format; the file appears complete or not at all, and the same matrix gives the same bytes.

    Raises ExportError when it cannot be written.
    """
    metadata: dict[str, KeyValue] = {
        "general.type": string("imatrix"),
        "imatrix.datasets": string_array(matrix.datasets),
        "imatrix.chunk_count": u32(matrix.chunk_count),
        "imatrix.chunk_size": u32(matrix.chunk_size),
        **{key: string(value) for key, value in sorted(matrix.provenance.items())},
    }
    entries: list[TensorEntry] = []
    contents: list[bytes] = []
    position = 0
    for name in sorted(matrix.entries):
        entry = matrix.entries[name]
        for suffix, values in ((_SUMS, entry.sums), (_COUNTS, np.full(1, entry.count))):
            content = values.astype("<f4").tobytes()
            entries.append(TensorEntry(name + suffix, (1, values.size), _F32, position))
            contents.append(content)
            position = align(position + len(content))
    header = encode_header(metadata, entries, ALIGNMENT)
    with PartialFile(path, len(header) + position) as file:
        file.write(0, header)
        for described, content in zip(entries, contents, strict=True):
            file.write(len(header) + described.offset, content)
        file.sync()
        file.publish()


def check_imatrix(matrix: ImportanceMatrix, specs: Sequence[TensorSpec]) -> list[Finding]:
    """What makes the matrix useless for a model (errors), or leaves tensors without weights (warnings)."""
    cols = {spec.gguf_name: spec.shape[-1] for spec in specs}
    findings = [finding for name, entry in matrix.entries.items() for finding in _check_entry(name, entry, cols)]
    linear = [spec.gguf_name for spec in specs if spec.storage_class == "linear"]
    missing = [name for name in linear if name not in matrix.entries]
    if len(missing) == len(linear):
        hint = "it was measured on another model"
        return [Finding("error", "importance matrix", "an entry for each linear layer", "none of them", hint)]
    hint = "this tensor is searched without weights"
    findings += [Finding("warning", name, "an entry in the importance matrix", "none", hint) for name in missing]
    return findings


def _check_entry(name: str, entry: ImportanceEntry, cols: Mapping[str, int]) -> Iterator[Finding]:
    where = f"importance of {name}"
    if name not in cols:
        yield Finding("warning", where, "a tensor of the model", "no such tensor", "it is not used")
        return
    if entry.sums.shape != (cols[name],):
        hint = "it was measured on another model"
        yield Finding("error", where, f"{cols[name]} values", f"{entry.sums.size} values", hint)
    if not np.isfinite(entry.sums).all() or (entry.sums < 0).any() or not 0 <= entry.count < float("inf"):
        yield Finding("error", where, "finite values of at least 0", "NaN, infinity or a negative value")
    elif not entry.count or not entry.sums.any():
        hint = "this tensor is searched without weights"
        yield Finding("warning", where, "a value above 0", "nothing was measured", hint)


def _from_gguf(file: GGUFFile) -> ImportanceMatrix:
    if file.metadata.get("general.type") != "imatrix":
        raise GGUFError(f"{file.path}: general.type is {file.metadata.get('general.type')!r}, expected 'imatrix'")
    names = [name.removesuffix(_SUMS) for name in file.tensors if name.endswith(_SUMS)]
    datasets = file.metadata.get("imatrix.datasets")
    return ImportanceMatrix(
        {name: _gguf_entry(file, name) for name in names},
        tuple(map(str, datasets)) if isinstance(datasets, list) else (),
        _number(file, "imatrix.chunk_count"),
        _number(file, "imatrix.chunk_size"),
        {key: str(file.metadata[key]) for key in file.metadata if key.startswith("conform.")},
    )


def _number(file: GGUFFile, key: str) -> int:
    value = file.metadata.get(key, 0)
    if not isinstance(value, int):
        raise GGUFError(
            f"{file.path}: {key} is of type {file.key_types[key]}, expected {ValueType.UINT32.name.lower()}"
        )
    return value


def _gguf_entry(file: GGUFFile, name: str) -> ImportanceEntry:
    sums, counts = (_vector(file, name + _SUMS), _vector(file, name + _COUNTS))
    if counts.size != 1:
        raise GGUFError(f"{file.path}: {name}{_COUNTS}: expected one number, found {counts.size}")
    return ImportanceEntry(sums, float(counts[0]))


def _vector(file: GGUFFile, name: str) -> Float32:
    packed = file.packed(name)
    info = file.tensors[name]
    if info.ggml_type != _F32:
        raise GGUFError(f"{file.path}: {name}: expected f32, found type {info.ggml_type}")
    if any(size != 1 for size in info.shape[:-1]):
        raise GGUFError(
            f"{file.path}: {name}: shape {info.shape} is that of several experts; only single matrices are read"
        )
    return packed.view("<f4").astype(np.float32)


class _LegacyParser:
    """Reads forward through a .dat file; no length is believed that what is left of it cannot hold."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        self._position = 0

    def parse(self) -> ImportanceMatrix:
        count = self._integer("the number of entries")
        if count > len(self._content) // _SMALLEST_ENTRY:
            raise self._error(f"claims {count} entries, which cannot be in {len(self._content)} bytes")
        entries: dict[str, ImportanceEntry] = {}
        for _ in range(count):
            name = self._text("the name of an entry")
            if not name.isprintable() or not name or name in entries:
                raise self._error(f"an entry is named {name!r}, which is not printable or occurs twice")
            calls = self._integer(f"the calls of {name}")
            values = self._integer(f"the length of {name}")
            content = np.frombuffer(self._take(4 * values, name), "<f4").astype(np.float32)
            # Without calls the values stand for themselves.
            entries[name] = ImportanceEntry(content, float(calls or 1))
        if self._position == len(self._content):
            return ImportanceMatrix(entries)
        chunks = self._integer("the number of chunks")
        return ImportanceMatrix(entries, (self._text("the data set"),), chunks)

    def _error(self, problem: str) -> GGUFError:
        return GGUFError(f"{self._path}: not an importance matrix: {problem} (at byte {self._position})")

    def _take(self, length: int, what: str) -> bytes:
        left = len(self._content) - self._position
        if length > left:
            raise self._error(f"truncated: {what} takes {length} bytes, {left} are left")
        self._position += length
        return self._content[self._position - length : self._position]

    def _integer(self, what: str) -> int:
        value: int = struct.unpack("<i", self._take(4, what))[0]
        if value < 0:
            raise self._error(f"{what} is {value}")
        return value

    def _text(self, what: str) -> str:
        length = self._integer(f"the length of {what}")
        if length > _LONGEST_NAME:
            raise self._error(f"{what} has a length of {length}; at most {_LONGEST_NAME} is read")
        return self._take(length, what).decode("utf-8", "surrogateescape")
