"""Load: TOML → contract. Every error names the file and the key."""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.mapping import from_mapping
from conform.contract.spec import Contract
from conform.contract.toml import parse_toml, read_toml

__all__ = ["VARIANTS", "load_contract", "shipped_contracts"]

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
    """The contract of that name or path, followed by `+ternary` or `+bitnet` where a variant is meant.

    Raises InputError naming file and key for anything missing, unknown, of the wrong type or contradictory.
    """
    if Path(reference).is_file():
        return _load_file(reference)
    base, *variants = reference.split("+")
    contract = _load_file(base) if Path(base).is_file() else _load_shipped(base)
    for variant in variants:
        contract = _with_variant(contract, variant)
    return contract


def _load_file(path: str) -> Contract:
    return from_mapping(Contract, read_toml(Path(path), "a contract"), path)


def _load_shipped(name: str) -> Contract:
    if name not in shipped_contracts():
        raise ContractError(
            f"{name}: no such contract or spec file; shipped are {', '.join(shipped_contracts())} "
            f"(followed by {' or '.join('+' + variant for variant in VARIANTS)} for a variant)"
        )
    file_name = f"{name}.toml"
    content = resources.files("conform.contract").joinpath("specs", file_name).read_bytes()
    return from_mapping(Contract, parse_toml(content, file_name), file_name)


def _with_variant(contract: Contract, variant: str) -> Contract:
    if variant not in VARIANTS:
        raise ContractError(f"{contract.name}+{variant}: no such variant; there are {', '.join(VARIANTS)}")
    changes: dict[str, Any] = dict(VARIANTS[variant])
    return dataclasses.replace(
        contract, name=f"{contract.name}+{variant}", model=dataclasses.replace(contract.model, **changes)
    )
