"""Errors of parity; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError

__all__ = ["RuntimeDriverError"]


class RuntimeDriverError(ConformError):
    """A runtime that cannot be driven at all: not built, not executable, not understood."""
