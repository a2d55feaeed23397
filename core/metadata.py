"""Metadata: the protocol of everything that contributes keys to a GGUF file, and the typed values of keys."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from conform.contract.spec import Contract
from conform.core.checkpoint.vocabulary import Vocabulary
from conform.core.errors import PluginError
from conform.core.gguf.types import ValueType
from conform.core.quantizer import Layout

__all__ = [
    "ExportFacts",
    "KeyValue",
    "MetadataWriter",
    "boolean",
    "f32",
    "f32_array",
    "gather_metadata",
    "i32_array",
    "string",
    "string_array",
    "u32",
]


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


def gather_metadata(writers: Mapping[str, MetadataWriter], facts: ExportFacts) -> dict[str, KeyValue]:
    """The keys of all writers, in the order in which the writers were registered.

    Raises PluginError naming the writer when it raises anything, returns a malformed key or value, or sets a key
    to another value than a writer before it.
    """
    keys: dict[str, KeyValue] = {}
    origin: dict[str, str] = {}
    for name in writers:
        for key, value in _keys_of(name, writers[name], facts).items():
            if key in keys and keys[key] != value:
                raise PluginError(f"metadata writers {origin[key]} and {name} set {key} to different values")
            keys.setdefault(key, value)
            origin.setdefault(key, name)
    return keys


def _keys_of(name: str, writer: MetadataWriter, facts: ExportFacts) -> Mapping[str, KeyValue]:
    try:
        keys = dict(writer.keys(facts))
    except Exception as error:  # a third party's code may raise anything
        raise PluginError(f"metadata writer {name} failed: {type(error).__name__}: {error}") from error
    for key, value in keys.items():
        if not isinstance(key, str) or not key.isprintable() or not key:
            raise PluginError(f"metadata writer {name}: {key!r} is not a metadata key; expected a printable text")
        if not isinstance(value, KeyValue) or not _is_sound(value):
            raise PluginError(
                f"metadata writer {name}: {key} has no usable value; expected a KeyValue with a finite number"
            )
    return keys


def _is_sound(value: KeyValue) -> bool:
    if isinstance(value.value, float) and not math.isfinite(value.value):
        return False
    if value.item is None:
        return isinstance(value.kind, ValueType) and isinstance(value.value, str | int | float)
    scalar = isinstance(value.item, ValueType) and value.item is not ValueType.ARRAY
    return scalar and value.kind is ValueType.ARRAY and isinstance(value.value, tuple)
