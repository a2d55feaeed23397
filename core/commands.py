"""conform verify and conform repack."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import click

from conform.contract.finding import Finding, failed
from conform.contract.load import load_contract
from conform.core.i2s_layout import I2SLayout
from conform.core.report import finding_to_json, json_option, print_findings, write_json

__all__ = ["repack", "verify"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_PATH)
@click.option(
    "--contract", "contract_name", metavar="NAME", help="A contract's name or file.  [default: the one in FILE]"
)
@json_option
def verify(file: Path, contract_name: str | None, json_path: str | None) -> int:
    """Check the GGUF file FILE against its contract: tensors, keys, offsets, sizes, values.

    Exit status: 0 it conforms, 1 it does not, 2 it is no GGUF file.
    """
    from conform.core import verify as verifier
    from conform.plugins.host import load_registry

    registry = load_registry()
    contract = load_contract(contract_name) if contract_name else None
    findings = verifier.verify(file, contract, registry)
    contract = contract or verifier.embedded_contract(verifier.open_gguf(file, registry))
    report = {
        "file": str(file),
        "contract": {"name": contract.name, "digest": contract.digest},
        "conforms": not failed(findings),
        "findings": [finding_to_json(finding) for finding in findings],
    }
    if not write_json(report, json_path):
        _print(file, contract.name, findings)
    return 1 if failed(findings) else 0


def _print(file: Path, contract: str, findings: Sequence[Finding]) -> None:
    if findings:
        print_findings(findings)
    errors = sum(finding.severity == "error" for finding in findings)
    verdict = (
        f"does not conform to contract {contract}: {errors} errors" if errors else f"conforms to contract {contract}"
    )
    click.echo(f"{file} {verdict}")


@click.command()
@click.argument("file", type=_PATH)
@click.option("--layout", required=True, type=click.Choice(get_args(I2SLayout)), help="The byte layout to write.")
@click.option(
    "--from", "source", type=click.Choice(get_args(I2SLayout)), help="The layout of FILE, where nothing tells."
)
@click.option("--checkpoint", type=_PATH, help="What FILE was made from; proves its layout.")
@click.option("--contract", metavar="NAME", help="The contract of that checkpoint.  [default: its own]")
@click.option("-o", "--output", required=True, type=_PATH, help="The file to write.")
@json_option
def repack(
    file: Path,
    layout: str,
    source: str | None,
    checkpoint: Path | None,
    contract: str | None,
    output: Path,
    json_path: str | None,
) -> int:
    """Rewrite the i2_s file FILE in another byte layout, losslessly.

    Every code and scale is compared after writing. The layout of FILE is taken from the key that conform writes, from
    the checkpoint, or from statistics where these are beyond doubt; otherwise it must be named by --from.
    """
    from conform.core import repack as repacker
    from conform.core.checkpoint import open_checkpoint
    from conform.core.gguf_read import read_gguf
    from conform.core.target import check_target

    check_target(output)
    opened = read_gguf(file)
    made_from = open_checkpoint(checkpoint) if checkpoint else None
    found = repacker.find_layout(opened, cast("I2SLayout | None", source), made_from, contract)
    done = repacker.repack(opened, found, cast(I2SLayout, layout), output)
    report = {
        "file": str(file),
        "output": str(done.path),
        "from": found.layout,
        "known_by": found.known_by,
        "detail": found.detail,
        "layout": done.layout,
        "tensors": done.tensors,
        "bytes": done.size,
    }
    if not write_json(report, json_path):
        detail = f" ({found.detail})" if found.detail else ""
        click.echo(f"{file} has layout {found.layout}, known by {found.known_by}{detail}.")
        click.echo(f"{output}: {done.tensors} i2_s tensors in layout {done.layout}, every value the same.")
    return 0
