"""Diff: where two contracts differ."""

import dataclasses
from dataclasses import dataclass

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
    return [
        Difference(f"{section}.{field.name}", str(a), str(b))
        for section in ("model", "tokenizer", "storage")
        for field in dataclasses.fields(getattr(left, section))
        if (a := getattr(getattr(left, section), field.name)) != (b := getattr(getattr(right, section), field.name))
    ]
