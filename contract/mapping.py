"""Mapping → frozen dataclass and back: every field checked against its annotation, every error naming file and key.

Understood are str, int, float, bool, Literal, `X | None`, tuples, lists and mappings of these, nested dataclasses, and
`Annotated[X, Rule(…)]` for a field that not every X will do for.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from conform.contract.errors import ConformError, InputError

__all__ = ["Rule", "from_mapping", "shown", "to_mapping"]

_Record = TypeVar("_Record")

_LARGEST_INT = 1 << 63


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field demands beyond its type; `expected` completes the sentence "expected …"."""

    expected: str
    holds: Callable[[Any], bool]


def from_mapping(
    kind: type[_Record], data: object, where: str, key: str = "", *, ignore_unknown: bool = False
) -> _Record:
    """The dataclass that parsed TOML or JSON describes: whole numbers become floats where one is declared.

    No float is NaN or infinite.
    `where` names the file in errors and `key` the place in it. A field may be missing if it has a default.
    Raises InputError for anything missing, unknown (unless `ignore_unknown`), of another type or against its rule; an
    error that the dataclass itself raises is raised again with `where` before it.
    """
    return _record(kind, data, _Place(where, key), ignore_unknown)


def to_mapping(record: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`. A field that has its default is left out.

    So a record that was written before the field existed still reads, and is written, as it was.
    """
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    defaults = {field.name: field.default for field in dataclasses.fields(record) if _has_default(field)}
    return {
        name: to_mapping(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }


@dataclass(frozen=True, slots=True)
class _Place:
    """A value's place: its file and its key, as errors name them."""

    where: str
    key: str

    def field(self, name: str) -> "_Place":
        name = name[:80]
        return _Place(self.where, f"{self.key}.{name}" if self.key else name)

    def item(self, number: int) -> "_Place":
        return _Place(self.where, f"{self.key}[{number}]")

    def refusal(self, value: object, expected: str) -> InputError:
        return InputError(f"{self.where}: {self.key} = {shown(value)}: expected {expected}")


def _record(kind: type[_Record], data: object, place: _Place, ignore_unknown: bool = False) -> _Record:
    values = _table(data, place)
    hints = _hints(kind)  # type: ignore[arg-type]  # mypy does not see that a class can be hashed
    _require_keys(kind, values, hints, place, ignore_unknown)
    checked = {name: _value(hints[name], values[name], place.field(name)) for name in hints if name in values}
    try:
        return kind(**checked)
    except ConformError as error:
        raise type(error)(f"{place.where}: {error}") from error


@functools.cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    # A manifest may hold a million records of one kind, and working out its annotations takes longer than a record.
    return get_type_hints(kind, include_extras=True)


def _require_keys(
    kind: type[Any], values: Mapping[str, Any], hints: Mapping[str, Any], place: _Place, ignore_unknown: bool
) -> None:
    required = [field.name for field in dataclasses.fields(kind) if not _has_default(field)]
    if missing := [place.field(name).key for name in required if name not in values]:
        raise InputError(f"{place.where}: missing {', '.join(missing)}")
    unknown = sorted(place.field(str(name)[:80]).key for name in values if name not in hints)
    if unknown and not ignore_unknown:
        raise InputError(f"{place.where}: unknown key {', '.join(unknown)}; known are {', '.join(hints)}")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _value(hint: Any, value: object, place: _Place) -> Any:
    """The value as the field holds it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _ruled(arguments[0], arguments[1:], value, place)
    if origin is Literal:
        return _choice(arguments, value, place)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(arguments[0], value, place)
    if origin in (tuple, list):
        items = _expect(list, value, place)
        return origin(_value(arguments[0], item, place.item(number)) for number, item in enumerate(items))
    if origin in (dict, Mapping):
        pairs = _table(value, place).items()
        return {
            _value(arguments[0], name, place): _value(arguments[1], item, place.field(name)) for name, item in pairs
        }
    if dataclasses.is_dataclass(hint):
        return _record(hint, value, place)  # type: ignore[arg-type]  # a field's annotation is a class
    return _number(value, place) if hint is float else _scalar(hint, value, place)


def _ruled(kind: Any, rules: tuple[Rule, ...], value: object, place: _Place) -> Any:
    checked = _value(kind, value, place)
    for rule in rules:
        if not rule.holds(checked):
            raise place.refusal(value, rule.expected)
    return checked


def _choice(choices: tuple[Any, ...], value: object, place: _Place) -> Any:
    # To Python, True equals 1.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise place.refusal(value, f"one of {', '.join(map(str, choices))}")
    return value


def _scalar(kind: type, value: object, place: _Place) -> Any:
    checked = _expect(kind, value, place)
    if kind is int and not -_LARGEST_INT <= checked < _LARGEST_INT:
        raise place.refusal(value, "a whole number of at most 64 bits")
    if kind is str and not checked.isascii() and any("\ud800" <= character <= "\udfff" for character in checked):
        raise place.refusal(value, "text that UTF-8 can hold")
    return checked


def _number(value: object, place: _Place) -> float:
    number = value if type(value) is int else _expect(float, value, place)
    try:
        converted = float(number)
    except OverflowError as error:
        raise place.refusal(value, "a number that fits into a float") from error
    if not math.isfinite(converted):
        raise place.refusal(value, "a finite number")
    return converted


def _expect(kind: type, value: object, place: _Place) -> Any:
    # bool is an int to Python, but not to a reader of the file.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise place.refusal(value, f"a value of type {kind.__name__}, found {type(value).__name__}")
    return value


def _table(value: object, place: _Place) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        where = f"{place.where}: {place.key}" if place.key else place.where
        raise InputError(f"{where}: expected a table, found {type(value).__name__}")
    return value


def shown(value: object) -> str:
    """The value as an error names it: at most 80 characters, whatever it is."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # Python refuses to print very long numbers and very deep lists
        return f"({type(value).__name__} too large to print)"
