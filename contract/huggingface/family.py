"""Family: what a model_type means, and what each key of its config.json may say, as families.toml has it."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from conform.contract.mapping import from_mapping
from conform.contract.spec import Architecture
from conform.contract.toml import parse_toml

__all__ = ["Families", "Family", "Irrelevant", "Only", "read_families"]


@dataclass(frozen=True, slots=True)
class Only:
    """Keys that may be null or one of `values` (with `each`: a list of them), for a contract cannot say more."""

    keys: tuple[str, ...]
    values: tuple[Any, ...]
    why: str
    each: bool = False

    def allows(self, value: object) -> bool:
        """True when the value says no more than a contract can."""
        if value is None:
            return True
        if self.each:
            return isinstance(value, list) and all(self._lists(item) for item in value)
        return self._lists(value)

    def _lists(self, value: object) -> bool:
        # To Python, True equals 1.
        return any(value == allowed and (type(value) is bool) == (type(allowed) is bool) for allowed in self.values)

    @property
    def expected(self) -> str:
        """What the keys may say, as an error names it."""
        values = " or ".join(map(json.dumps, self.values))
        return " or ".join(filter(None, (f"a list of {values}" if self.each else values, "null")))


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """Keys that decide nothing about the model, and why."""

    keys: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Family:
    """A value of model_type; `absent` holds what its library, named in `source`, takes an absent key for."""

    architecture: Architecture
    sub_norms: bool
    activations: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    absent: Mapping[str, Any]
    only: tuple[Only, ...] = ()
    irrelevant: tuple[Irrelevant, ...] = ()


@dataclass(frozen=True, slots=True)
class Families:
    """All families, and the keys that mean the same in each; `understood` names the facts that a key decides."""

    understood: Mapping[str, str]
    only: tuple[Only, ...]
    irrelevant: tuple[Irrelevant, ...]
    families: Mapping[str, Family]


@functools.cache
def read_families() -> Families:
    """The families that conform reads, from the data file that ships with it."""
    name = "families.toml"
    content = resources.files("conform.contract.huggingface").joinpath(name).read_bytes()
    return from_mapping(Families, parse_toml(content, name), name)
