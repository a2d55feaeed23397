"""Diff: where two contracts differ."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conform.contract.spec import Contract

__all__ = ["Difference", "diff"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs: `key` is written as in the spec file, `model.layers`."""

    key: str
    left: str
    right: str


def diff(left: Contract, right: Contract) -> list[Difference]:
    """Every field that differs, in the order of the spec; empty exactly when the digests are equal."""
    ours, theirs = dict(_fields(left)), dict(_fields(right))
    return [
        Difference(key, str(ours.get(key)), str(theirs.get(key)))
        for key in (*ours, *(key for key in theirs if key not in ours))
        if ours.get(key) != theirs.get(key)
    ]


def _fields(contract: Contract) -> Iterator[tuple[str, object]]:
    for section in ("model", "tokenizer", "storage"):
        yield from _flat(section, getattr(contract, section))


def _flat(key: str, value: Any) -> Iterator[tuple[str, object]]:
    """A field, or all fields of a record, under their dotted keys; a record that is not there has none."""
    if not dataclasses.is_dataclass(value):
        yield key, value
        return
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if inner is not None:
            yield from _flat(f"{key}.{field.name}", inner)
