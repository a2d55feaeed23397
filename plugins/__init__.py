"""Everything a third party could have written, registered through the same hooks.

What stands in `__all__` here is all that a plugin needs; the rest of conform may change without notice.
"""

from conform.core.errors import ConformError, PluginError, QuantizeError
from conform.core.gguf.types import ValueType
from conform.core.metadata import ExportFacts, KeyValue, MetadataWriter
from conform.core.quantizer import Effort, Float32, Layout, Packed, Quantizer, Tunable
from conform.core.runtime import (
    Answer,
    Identity,
    Limits,
    Request,
    Runtime,
    RuntimeDriver,
    RuntimeFault,
    Sampling,
    Step,
    View,
)
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, column_weights, packed_size, run_rows

__all__ = [
    "Answer",
    "ConformError",
    "Effort",
    "ExportFacts",
    "Float32",
    "Identity",
    "KeyValue",
    "Layout",
    "Limits",
    "MetadataWriter",
    "Packed",
    "PluginError",
    "QuantizeError",
    "Quantizer",
    "Request",
    "Runtime",
    "RuntimeDriver",
    "RuntimeFault",
    "Sampling",
    "Step",
    "Tunable",
    "ValueType",
    "View",
    "checked_packed",
    "checked_rows",
    "column_weights",
    "hookimpl",
    "packed_size",
    "run_rows",
]
