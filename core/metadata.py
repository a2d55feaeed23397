"""Metadata: the protocol of everything that contributes keys to a GGUF file, and the typed values of keys."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from conform.contract.spec import Contract
from conform.core.errors import PluginError
from conform.core.gguf.types import ValueType
from conform.core.guard import guarded
from conform.core.quantizer import Layout
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = [
    "ExportFacts",
    "KeyValue",
    "MetadataWriter",
    "OwnedWriter",
    "boolean",
    "f32",
    "f32_array",
    "gather_metadata",
    "i32_array",
    "string",
    "string_array",
    "u32",
]

_FLOATS = (ValueType.FLOAT32, ValueType.FLOAT64)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One typed metadata value; `item` is the type of an array's items, None for a scalar."""

    kind: ValueType
    value: str | int | float | bool | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
    item: ValueType | None = None


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """All that a metadata writer may know about a file; no path and no time, so the same input gives the same bytes.

    `linear_layouts` are the layouts of the linear layers, sorted; `plugins` are `distribution version` of every plugin
    whose quantizer or writer had a part in the file.
    """

    contract: Contract
    vocabulary: Vocabulary
    checkpoint_digest: str
    alignment: int
    linear_layouts: tuple[Layout, ...]
    quantizers: tuple[str, ...]
    plugins: tuple[str, ...]


@runtime_checkable
class MetadataWriter(Protocol):
    """Pure: the same facts give the same keys."""

    name: ClassVar[str]

    def keys(self, facts: ExportFacts) -> Mapping[str, KeyValue]:
        """The keys that this writer contributes, in the order in which the file holds them."""
        ...


@dataclass(frozen=True, slots=True)
class OwnedWriter:
    """The one way in which conform calls a metadata writer; `owner` is `distribution version` of its plugin."""

    writer: MetadataWriter
    owner: str

    def keys(self, name: str, facts: ExportFacts) -> Mapping[str, KeyValue]:
        """The keys of the writer of that name.

        Raises PluginError naming writer and owner when it raises anything, or returns a malformed key or value.
        """
        who = f"metadata writer {name} of {self.owner}"
        with guarded(f"{who} failed"):
            keys = dict(self.writer.keys(facts))
        for key, value in keys.items():
            if not isinstance(key, str) or not key.isprintable() or not key:
                raise PluginError(f"{who}: {key!r} is not a metadata key; expected a printable text")
            if not isinstance(value, KeyValue) or not _is_sound(value):
                raise PluginError(
                    f"{who}: {key} has no usable value; expected a KeyValue of a finite value of its type"
                )
        return keys


def u32(value: int) -> KeyValue:
    """A count or an id."""
    return KeyValue(ValueType.UINT32, value)


def f32(value: float) -> KeyValue:
    """A float, rounded to float32 when written."""
    return KeyValue(ValueType.FLOAT32, value)


def boolean(value: bool) -> KeyValue:
    """A flag."""
    return KeyValue(ValueType.BOOL, value)


def string(value: str) -> KeyValue:
    """A text, written as UTF-8."""
    return KeyValue(ValueType.STRING, value)


def string_array(values: Sequence[str]) -> KeyValue:
    """Texts."""
    return KeyValue(ValueType.ARRAY, tuple(values), ValueType.STRING)


def f32_array(values: Sequence[float]) -> KeyValue:
    """Floats, rounded to float32 when written."""
    return KeyValue(ValueType.ARRAY, tuple(values), ValueType.FLOAT32)


def i32_array(values: Sequence[int]) -> KeyValue:
    """Signed whole numbers."""
    return KeyValue(ValueType.ARRAY, tuple(values), ValueType.INT32)


def gather_metadata(writers: Mapping[str, OwnedWriter], facts: ExportFacts) -> dict[str, KeyValue]:
    """The keys of all writers, in the order in which the writers were registered.

    Raises PluginError naming the writer that breaks the protocol, or sets a key to another value than a writer before
    it.
    """
    keys: dict[str, KeyValue] = {}
    origin: dict[str, str] = {}
    for name, writer in writers.items():
        for key, value in writer.keys(name, facts).items():
            if key in keys and keys[key] != value:
                raise PluginError(f"metadata writers {origin[key]} and {name} set {key} to different values")
            keys.setdefault(key, value)
            origin.setdefault(key, name)
    return keys


def _is_sound(value: KeyValue) -> bool:
    if value.item is None:
        return _fits(value.kind, value.value)
    return value.kind is ValueType.ARRAY and isinstance(value.value, tuple) and _all_fit(value.item, value.value)


def _all_fit(item: object, values: tuple[object, ...]) -> bool:
    scalar = isinstance(item, ValueType) and item is not ValueType.ARRAY
    return scalar and all(_fits(item, value) for value in values)


def _fits(kind: object, value: object) -> bool:
    if kind is ValueType.STRING:
        return isinstance(value, str)
    if kind in _FLOATS:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(kind, ValueType) and kind is not ValueType.ARRAY and isinstance(value, int)
