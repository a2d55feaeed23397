"""Errors of parity; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError

__all__ = ["ForeignError", "RuntimeDriverError"]


class ForeignError(ConformError):
    """A checkpoint that the other implementation of its family cannot be asked about, or does not answer for."""


class RuntimeDriverError(ConformError):
    """A runtime that cannot be driven at all: not built, not executable, not understood."""
