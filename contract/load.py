"""Load: TOML → contract. Every error names the file and the key."""

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from conform.contract.errors import ContractError
from conform.contract.spec import Contract, ModelSpec, StoragePolicy, TokenizerSpec

__all__ = ["VARIANTS", "contract_from_mapping", "contract_to_mapping", "load_contract", "shipped_contracts"]

_Section = TypeVar("_Section", ModelSpec, TokenizerSpec, StoragePolicy)

# A spec file is a page of text; anything larger is something else.
_LARGEST_FILE = 1 << 20

# `NAME+VARIANT` is the contract NAME with these fields of its model replaced.
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "ternary": {"linear": "ternary"},
    "bitnet": {"architecture": "bitnet-b1.58", "linear": "ternary", "sub_norms": True},
}


def shipped_contracts() -> tuple[str, ...]:
    """The names of the contracts that ship with conform, sorted."""
    specs = resources.files("conform.contract").joinpath("specs")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in specs.iterdir() if entry.name.endswith(".toml")))


def load_contract(reference: str) -> Contract:
    """The contract of that name or path, with `+ternary` or `+bitnet` behind it where a variant is meant.

    Raises ContractError naming file and key for anything missing, unknown, of the wrong type or contradictory.
    """
    if Path(reference).is_file():
        return _load_file(_content(reference), reference)
    base, *variants = reference.split("+")
    contract = _load_file(_content(base), base) if Path(base).is_file() else _load_shipped(base)
    for variant in variants:
        contract = _with_variant(contract, variant)
    return contract


def contract_from_mapping(data: Mapping[str, Any], where: str) -> Contract:
    """The contract that the parsed TOML or JSON describes; `where` names it in errors."""
    _require_keys(data, {"name", "why", "model", "tokenizer", "storage"}, where, "")
    for key in ("name", "why"):
        _require_type(data[key], str, where, key)
    if not data["name"].isprintable():
        raise ContractError(f"{where}: name = {data['name'][:80]!a}: expected printable characters only")
    return Contract(
        name=data["name"],
        why=data["why"],
        model=_section(ModelSpec, data["model"], where, "model"),
        tokenizer=_section(TokenizerSpec, data["tokenizer"], where, "tokenizer"),
        storage=_section(StoragePolicy, data["storage"], where, "storage"),
    )


def contract_to_mapping(contract: Contract) -> dict[str, Any]:
    """The inverse of `contract_from_mapping`."""
    return dataclasses.asdict(contract)


def _load_shipped(name: str) -> Contract:
    if name not in shipped_contracts():
        raise ContractError(
            f"{name}: no such contract or spec file; shipped are {', '.join(shipped_contracts())} "
            f"(with {' or '.join('+' + variant for variant in VARIANTS)} behind one for a variant)"
        )
    spec = resources.files("conform.contract").joinpath("specs", f"{name}.toml")
    return _load_file(spec.read_bytes(), f"{name}.toml")


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror}") from error


def _load_file(content: bytes, where: str) -> Contract:
    if len(content) > _LARGEST_FILE:
        raise ContractError(f"{where}: no spec file; expected at most {_LARGEST_FILE} bytes of TOML")
    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # what tomllib raises, and what it lets through
        raise ContractError(f"{where}: not a TOML file: {error}") from error
    return contract_from_mapping(data, where)


def _with_variant(contract: Contract, variant: str) -> Contract:
    if variant not in VARIANTS:
        raise ContractError(f"{contract.name}+{variant}: no such variant; there are {', '.join(VARIANTS)}")
    changes: dict[str, Any] = dict(VARIANTS[variant])
    return dataclasses.replace(
        contract, name=f"{contract.name}+{variant}", model=dataclasses.replace(contract.model, **changes)
    )


def _section(kind: type[_Section], values: object, where: str, section: str) -> _Section:
    if not isinstance(values, Mapping):
        raise ContractError(f"{where}: {section}: expected a table, found {type(values).__name__}")
    hints = get_type_hints(kind)
    _require_keys(values, set(hints), where, f"{section}.")
    for key, hint in hints.items():
        _require_type(values[key], hint, where, f"{section}.{key}")
        if hint is float:
            _require_float(values[key], where, f"{section}.{key}")
    try:
        checked: dict[str, Any] = {key: _as_declared(values[key], hint) for key, hint in hints.items()}
        return kind(**checked)
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from error


def _as_declared(value: Any, hint: Any) -> Any:
    # `rope_base = 10000` and `rope_base = 10000.0` are the same contract.
    return float(value) if hint is float else value


def _require_keys(values: Mapping[str, Any], expected: set[str], where: str, prefix: str) -> None:
    if missing := sorted(expected - set(values)):
        raise ContractError(
            f"{where}: missing {', '.join(prefix + key for key in missing)}; a contract has no defaults"
        )
    if unknown := sorted(set(values) - expected):
        raise ContractError(f"{where}: unknown key {', '.join(prefix + key for key in unknown)}")


def _require_float(value: float, where: str, key: str) -> None:
    try:
        float(value)
    except OverflowError as error:
        raise ContractError(f"{where}: {key} = {str(value)[:40]}…: expected a number that fits into a float") from error


def _require_type(value: object, hint: Any, where: str, key: str) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ContractError(f"{where}: {key} = {value!r}: expected one of {', '.join(map(str, get_args(hint)))}")
        return
    accepted = (int, float) if hint is float else (hint,)
    # bool is an int to Python, but not to a reader of the spec.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ContractError(f"{where}: {key} = {value!r}: expected a value of type {hint.__name__}")
