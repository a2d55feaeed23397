"""Errors of the trainer; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError

__all__ = ["ConformError", "DataError", "TokenizerError", "TrainError"]


class TokenizerError(ConformError):
    """A tokenizer that cannot be trained, read or agreed on."""


class DataError(ConformError):
    """Text that cannot be read, or token shards that are missing, changed or foreign."""


class TrainError(ConformError):
    """A training run that cannot start or go on."""
