"""Catalog: the protocol of whatever offers quantizers and metadata writers; the pipeline is given one."""

from collections.abc import Mapping
from typing import Protocol

from conform.core.metadata import MetadataWriter
from conform.core.quantizer import Quantizer

__all__ = ["Catalog"]


class Catalog(Protocol):
    """What is installed; the registry of conform.plugins is one."""

    @property
    def metadata_writers(self) -> Mapping[str, MetadataWriter]:
        """Every metadata writer by name."""
        ...

    def quantizer(self, name: str) -> Quantizer:
        """The quantizer of that name.

        Raises PluginError that lists what exists.
        """
        ...

    def decoder(self, ggml_type: int, variant: str = "") -> Quantizer:
        """A quantizer that decodes bytes of that layout.

        Raises PluginError when none does.
        """
        ...

    def owner(self, name: str) -> str:
        """`distribution version` of the plugin that offers the quantizer."""
        ...
