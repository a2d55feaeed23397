"""The contract: what a model is, frozen and digest-bearing."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conform.contract.load import load_contract
    from conform.contract.spec import Contract

__all__ = ["Contract", "load_contract"]


def __getattr__(name: str) -> object:
    # Imported when it is asked for: every error passes through this package, and `conform --help` needs no contract.
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module("conform.contract.load"), name)
