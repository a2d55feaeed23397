"""Dump: contract → TOML, the inverse of load."""

import dataclasses

from conform.contract.spec import Contract
from conform.contract.toml import toml_text

__all__ = ["dump_contract"]


def dump_contract(contract: Contract) -> str:
    """The spec file of a contract; loading it gives an equal contract."""
    return toml_text(dataclasses.asdict(contract))
