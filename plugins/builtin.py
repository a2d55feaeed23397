"""Built-in: the plugins that ship with conform, loaded before any other and through the same hooks."""

__all__ = ["BUILTIN_PLUGINS"]

BUILTIN_PLUGINS = (
    "conform.parity.drivers.bitnet_go",
    "conform.parity.drivers.jsonlines",
    "conform.plugins.metadata_gguf",
    "conform.plugins.quantizers.floats",
    "conform.plugins.quantizers.q8_0",
    "conform.plugins.quantizers.i2_s",
    "conform.plugins.quantizers.tq",
    "conform.plugins.quantizers.iq1",
    "conform.plugins.quantizers.iq2",
    "conform.plugins.quantizers.iq3",
    "conform.plugins.quantizers.iq4",
)
