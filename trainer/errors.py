"""Errors of the trainer; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError, InputError

__all__ = ["ConformError", "DataError", "InputError", "TokenizerError", "TrainError"]


class TokenizerError(ConformError):
    """A tokenizer that cannot be trained, read or agreed on."""


class DataError(InputError):
    """Text that cannot be read, or token shards that are missing, changed or foreign."""


class TrainError(ConformError):
    """A training run that cannot start or go on."""
