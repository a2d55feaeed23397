"""Catalog: the protocol of whatever offers quantizers and metadata writers; the pipeline is given one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from conform.core.codec import Codec
from conform.core.metadata import OwnedWriter

__all__ = ["Catalog"]


class Catalog(Protocol):
    """What is installed; the registry of conform.plugins is one."""

    @property
    def metadata_writers(self) -> Mapping[str, OwnedWriter]:
        """Every metadata writer by name, with its owner."""
        ...

    def codec(self, name: str) -> Codec:
        """The quantizer of that name.

        Raises PluginError that lists what exists.
        """
        ...

    def match(self, pattern: str) -> Sequence[Codec]:
        """The quantizers whose names match a shell pattern such as `iq3_*`.

        Raises PluginError when there is none.
        """
        ...

    def decoder(self, ggml_type: int, variant: str = "") -> Codec:
        """A quantizer that decodes bytes of that layout.

        Raises PluginError when none does.
        """
        ...
