"""Settings: the values of a config.json, each with where it comes from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from conform.contract.errors import ContractError
from conform.contract.huggingface.family import Family
from conform.contract.mapping import shown

__all__ = ["Decided", "Settings"]

_Value_co = TypeVar("_Value_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Decided(Generic[_Value_co]):
    """A value, and the key or rule that decided it."""

    value: _Value_co
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration of one family; `where` names its file in errors.

    Each reader takes the family's value for a key that is absent, and raises ContractError naming the key when there
    is none or the value is of another type.
    """

    config: Mapping[str, Any]
    family: Family
    where: str

    def whole(self, key: str) -> Decided[int]:
        """A whole number."""
        found = self._find(key, "a whole number")
        if type(found.value) is not int:
            raise self.refusal(key, found.value, "a whole number")
        return found

    def number(self, key: str) -> Decided[float]:
        """A finite number, as a float."""
        found = self._find(key, "a number")
        return Decided(self.finite(key, found.value), found.source)

    def flag(self, key: str) -> Decided[bool]:
        """True or false."""
        found = self._find(key, "true or false")
        if type(found.value) is not bool:
            raise self.refusal(key, found.value, "true or false")
        return found

    def choice(self, key: str, choices: tuple[str, ...]) -> Decided[str]:
        """One of these words."""
        expected = " or ".join(map(repr, choices))
        found = self._find(key, expected)
        if found.value not in choices:
            raise self.refusal(key, found.value, expected)
        return found

    def says(self, key: str) -> bool:
        """True when the key is there and not null."""
        return self.config.get(key) is not None

    def finite(self, key: str, value: object) -> float:
        """The value as a float; `key` names its place."""
        if type(value) in (int, float):
            try:
                number = float(value)  # type: ignore[arg-type]  # it is one of the two
            except OverflowError as error:
                raise self.refusal(key, value, "a number that fits into a float") from error
            if math.isfinite(number):
                return number
        raise self.refusal(key, value, "a number")

    def refusal(self, key: str, value: object, expected: str) -> ContractError:
        """The error that names this key and its value."""
        return ContractError(f"{self.where}: {key} = {shown(value)}: expected {expected}")

    def disagreement(self, said: Sequence[tuple[str, object]]) -> ContractError:
        """The error that names the places which say one thing in two ways."""
        places = " and ".join(f"{place} = {shown(value)}" for place, value in said)
        return ContractError(f"{self.where}: {places}: expected the same; keep the one that the model was trained with")

    def default(self, key: str) -> Decided[Any]:
        """What the family's library takes an absent key for, where it has a default."""
        return Decided(self.family.absent[key], f"{key} is absent; default of {self.family.source}")

    def _find(self, key: str, expected: str) -> Decided[Any]:
        if key in self.config:
            return Decided(self.config[key], key)
        if key in self.family.absent:
            return self.default(key)
        raise ContractError(f"{self.where}: {key} is missing: expected {expected}")
