"""Dump: contract → TOML, the inverse of load."""

from conform.contract.mapping import to_mapping
from conform.contract.spec import Contract
from conform.contract.toml import toml_text

__all__ = ["dump_contract"]


def dump_contract(contract: Contract) -> str:
    """The spec file of a contract; loading it gives an equal contract."""
    return toml_text(to_mapping(contract))
