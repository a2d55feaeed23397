"""Hookspecs: the three hooks that a plugin may implement; a test compares them with docs/reference/plugins.md.

None of them is `firstresult`: with it, whichever plugin registered last would silently decide the bytes of a file.
"""

from collections.abc import Iterable

import pluggy

from conform.core.metadata import MetadataWriter
from conform.core.quantizer import Quantizer
from conform.core.runtime import RuntimeDriver

__all__ = ["API", "conform_metadata_writers", "conform_quantizers", "conform_runtime_drivers", "hookimpl"]

API = 1
"""The version of these hooks and protocols: what a plugin states as CONFORM_PLUGIN_API."""

hookimpl = pluggy.HookimplMarker("conform")
_hookspec = pluggy.HookspecMarker("conform")


@_hookspec
def conform_quantizers() -> Iterable[Quantizer]:
    """The quantizers that this plugin offers to --quant and --type."""
    return ()


@_hookspec
def conform_metadata_writers() -> Iterable[MetadataWriter]:
    """The writers of GGUF metadata that this plugin offers, one for each architecture or purpose."""
    return ()


@_hookspec
def conform_runtime_drivers() -> Iterable[RuntimeDriver]:
    """The kinds of runtime that this plugin can start and judge."""
    return ()
