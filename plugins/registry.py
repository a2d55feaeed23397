"""Registry: what the loaded plugins offer, by name, with the owner of each."""

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from conform.core.codec import Codec
from conform.core.errors import PluginError
from conform.core.metadata import OwnedWriter
from conform.core.quantizer import Quantizer
from conform.core.runtime import RuntimeDriver
from conform.plugins.decoders import foreign_decoder

__all__ = ["Failure", "Kind", "Plugin", "Registry"]

Kind = Literal["quantizer", "metadata writer", "runtime driver"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One loaded plugin: `name` is `distribution:entry point`; `offers` holds (kind, name) pairs."""

    name: str
    distribution: str
    version: str
    module: str
    hooks: tuple[str, ...]
    offers: tuple[tuple[Kind, str], ...]

    @property
    def owner(self) -> str:
        """Distribution and version, as they stand in reports, receipts and exported files."""
        return f"{self.distribution} {self.version}"

    def names(self, kind: Kind) -> tuple[str, ...]:
        """The names of what it offers of that kind."""
        return tuple(name for offered, name in self.offers if offered == kind)


@dataclass(frozen=True, slots=True)
class Failure:
    """One plugin that could not be loaded, and why."""

    plugin: str
    owner: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin} ({self.owner}) failed: {self.reason}"


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed; built-ins come first, everything else sorted by distribution and entry point."""

    quantizers: Mapping[str, Quantizer]
    metadata_writers: Mapping[str, OwnedWriter] = field(default_factory=dict)
    runtime_drivers: Mapping[str, RuntimeDriver] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    failures: tuple[Failure, ...] = ()

    def codec(self, name: str) -> Codec:
        """The quantizer of that name, with its owner.

        Raises PluginError that lists what exists and which plugins failed to load.
        """
        if name in self.quantizers:
            return Codec(self.quantizers[name], self.owner(name))
        close = difflib.get_close_matches(name, self.quantizers, 1)
        guess = f", did you mean {close[0]}?" if close else ""
        raise PluginError(f"{name}: no such quantizer{guess}; there are {self._listed()}{self._failed()}")

    def match(self, pattern: str) -> list[Codec]:
        """The quantizers whose names match a shell pattern such as `iq3_*`, in order of registration.

        Raises PluginError when there is none.
        """
        if not set(pattern) & set("*?["):
            return [self.codec(pattern)]
        found = [self.codec(name) for name in self.quantizers if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise PluginError(f"{pattern}: matches no quantizer; there are {self._listed()}{self._failed()}")
        return found

    def decoder(self, ggml_type: int, variant: str = "") -> Codec:
        """A quantizer that decodes bytes of that layout; equal layouts decode alike, so the first one is taken.

        A type that no quantizer writes may still be one that the gguf package decodes.
        Raises PluginError when nothing reads the layout.
        """
        for name, quantizer in self.quantizers.items():
            if (quantizer.layout.ggml_type, quantizer.layout.variant) == (ggml_type, variant):
                return self.codec(name)
        if not variant and (codec := foreign_decoder(ggml_type)) is not None:
            return codec
        layout = f"GGML type {ggml_type}" + (f", variant {variant}" if variant else "")
        raise PluginError(f"{layout}: no quantizer decodes it; there are {self._listed()}{self._failed()}")

    def owner(self, name: str, kind: Kind = "quantizer") -> str:
        """`distribution version` of the plugin that offers the name.

        Raises PluginError when no plugin does.
        """
        return self.plugin(name, kind).owner

    def plugin(self, name: str, kind: Kind = "quantizer") -> Plugin:
        """The plugin that offers the name.

        Raises PluginError when no plugin does.
        """
        for plugin in self.plugins:
            if (kind, name) in plugin.offers:
                return plugin
        raise PluginError(f"{name}: no plugin offers a {kind} of that name{self._failed()}")

    def _listed(self) -> str:
        return ", ".join(self.quantizers) or "none"

    def _failed(self) -> str:
        return "".join(f"; {failure}" for failure in self.failures)
