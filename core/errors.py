"""Errors of the pipeline; the whole tree is drawn in `conform.contract.errors`."""

from conform.contract.errors import ConformError

__all__ = [
    "CheckpointError",
    "ConformError",
    "ExportError",
    "GGUFError",
    "PlanError",
    "PluginError",
    "QuantizeError",
]


class CheckpointError(ConformError):
    """A checkpoint that cannot be read."""


class GGUFError(ConformError):
    """A GGUF file that cannot be read."""


class PlanError(ConformError):
    """An export that cannot be planned."""


class QuantizeError(ConformError):
    """Values that a quantizer must refuse: NaN, infinity, a shape that does not fit its blocks."""


class ExportError(ConformError):
    """An export that could not be completed; nothing was left under its final name."""


class PluginError(ConformError):
    """A plugin that failed to load, clashes with another or broke the protocol."""
