"""Dump: contract → TOML, the inverse of load."""

import json

from conform.contract.load import contract_to_mapping
from conform.contract.spec import Contract

__all__ = ["dump_contract"]


def dump_contract(contract: Contract) -> str:
    """The spec file of a contract; loading it gives an equal contract."""
    mapping = contract_to_mapping(contract)
    lines = [f"{key} = {_value(mapping[key])}" for key in ("name", "why")]
    for section in ("model", "tokenizer", "storage"):
        lines += ["", f"[{section}]", *(f"{key} = {_value(value)}" for key, value in mapping[section].items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    # TOML's basic strings, booleans and numbers are spelt as in JSON (which escapes DEL too rarely for TOML).
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
