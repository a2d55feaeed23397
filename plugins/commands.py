"""`conform plugins`: list what is installed and what failed to load."""

import click

from conform.core.report import json_option, print_table, write_json
from conform.plugins.registry import Registry

__all__ = ["plugins"]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def plugins(context: click.Context, json_path: str | None) -> int:
    """List every plugin with its version, hooks and quantizers, and what failed to load.

    Exit status 1 when a plugin failed to load.
    """
    if context.invoked_subcommand is not None:
        return 0
    from conform.plugins.host import load_registry

    registry = load_registry()
    if not write_json(_report(registry), json_path):
        _print(registry)
    return 1 if registry.failures else 0


def _report(registry: Registry) -> dict[str, object]:
    return {
        "plugins": [
            {
                "plugin": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.module,
                "hooks": list(plugin.hooks),
                "quantizers": list(plugin.names("quantizer")),
                "metadata_writers": list(plugin.names("metadata writer")),
                "runtime_drivers": list(plugin.names("runtime driver")),
            }
            for plugin in registry.plugins
        ],
        "failures": [{"plugin": f.plugin, "owner": f.owner, "reason": f.reason} for f in registry.failures],
    }


def _print(registry: Registry) -> None:
    rows = [
        (plugin.name, plugin.owner, " ".join(plugin.hooks), " ".join(name for _, name in plugin.offers))
        for plugin in registry.plugins
    ]
    print_table(("plugin", "version", "hooks", "offers"), rows)
    if registry.failures:
        print_table(("failed", "version", "why"), [(f.plugin, f.owner, f.reason) for f in registry.failures])
