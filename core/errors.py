"""Errors of the pipeline; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError, InputError

__all__ = [
    "CheckpointError",
    "ConformError",
    "ExportError",
    "GGUFError",
    "InputError",
    "PlanError",
    "PluginError",
    "QuantizeError",
]


class CheckpointError(InputError):
    """A checkpoint that cannot be used: incomplete, malformed, or not the one that it says it is."""


class GGUFError(InputError):
    """A GGUF file that cannot be parsed, or does not hold what it should."""


class PlanError(ConformError):
    """An export that cannot be planned."""


class QuantizeError(ConformError):
    """Values that a quantizer must refuse: NaN, infinity, a shape that does not fit its blocks."""


class ExportError(ConformError):
    """An export that could not be completed; nothing was left under its final name."""


class PluginError(ConformError):
    """A plugin that failed to load, clashes with another or broke the protocol."""
