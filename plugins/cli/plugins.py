"""`conform plugins`: list what is installed, certify a quantizer, check a receipt, start a new plugin."""

from collections.abc import Mapping
from pathlib import Path

import click

from conform.contract.finding import failed
from conform.core.cli.console import console, print_findings, print_table
from conform.core.cli.options import PATH, json_option
from conform.core.cli.output import write_json
from conform.core.errors import PluginError
from conform.core.files.json import read_json_object
from conform.plugins.registry import Registry

__all__ = ["plugins"]

# A receipt is some pages of text; anything larger is something else.
_LARGEST_RECEIPT = 1 << 22


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


@plugins.command()
@click.argument("name")
@json_option
def certify(name: str, json_path: str | None) -> int:
    """Run the certification kit on the quantizer NAME; --json FILE.json writes the receipt.

    Exit status 1 when it breaks a promise of the protocol.
    """
    from conform.plugins.host import load_registry
    from conform.plugins.testing import certify as run_battery
    from conform.plugins.testing import make_receipt

    registry = load_registry()
    quantizer, plugin = registry.codec(name).quantizer, registry.plugin(name)
    certificate = run_battery(quantizer)
    receipt = make_receipt(certificate, quantizer, plugin)
    if not write_json(receipt, json_path):
        rows = [(result.check, result.outcome, result.detail) for result in certificate.results]
        print_table(("check", "", "measured"), rows)
        verdict = "certified" if certificate else f"not certified: {len(certificate.failures)} checks failed"
        console().print(f"{name} of {plugin.owner}: {verdict}; receipt {receipt['digest'][:16]}")
    return 0 if certificate else 1


@plugins.command()
@click.argument("name")
@click.option("--in", "parent", type=PATH, default=Path(), help="The folder to write it into.")
def new(name: str, parent: Path) -> int:
    """Write a complete, installable plugin project into the folder NAME.

    It holds one small quantizer, its tests and the entry point by which conform finds it.
    """
    from conform.plugins.host import load_registry
    from conform.plugins.project import new_project

    module = name.replace("-", "_")
    registry = load_registry()
    if module in registry.quantizers:
        raise PluginError(f"{name}: {registry.owner(module)} offers a quantizer {module} already; choose another name")
    folder = new_project(name, parent)
    for line in (f"pip install -e '{folder}[test]'", f"pytest {folder}", f"conform plugins certify {module}"):
        console().print(line, markup=False)
    return 0


@plugins.command()
@click.argument("file", type=PATH)
@json_option
def receipt(file: Path, json_path: str | None) -> int:
    """Check whether a receipt still describes what is installed.

    Exit status 1 when the plugin's version or one of its files has changed, or when it was not certified.
    """
    from conform.plugins.host import load_registry
    from conform.plugins.testing import receipt_findings

    content = _read_receipt(file)
    plugin = load_registry().plugin(str(content["quantizer"]))
    findings = receipt_findings(content, plugin)
    if not write_json({"findings": [finding.to_json() for finding in findings]}, json_path):
        print_findings(findings)
        verdict = "is not covered by this receipt" if findings else "is what was certified"
        console().print(f"{content['quantizer']} of {plugin.owner} {verdict}")
    return 1 if failed(findings) else 0


def _read_receipt(file: Path) -> Mapping[str, object]:
    content = read_json_object(file, "a receipt", largest=_LARGEST_RECEIPT)
    if not isinstance(content.get("quantizer"), str):
        raise PluginError(f"{file}: not a receipt; expected what `conform plugins certify NAME --json FILE` wrote")
    return content


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
