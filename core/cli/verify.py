"""conform verify: a GGUF file against its contract."""

from collections.abc import Sequence
from pathlib import Path

import click

from conform.contract.finding import Finding, failed
from conform.contract.load import load_contract
from conform.core.cli.console import print_findings
from conform.core.cli.options import PATH, json_option
from conform.core.cli.output import write_json

__all__ = ["verify"]


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--contract", "contract_name", metavar="NAME", help="A contract's name or file.  [default: the one in FILE]"
)
@json_option
def verify(file: Path, contract_name: str | None, json_path: str | None) -> int:
    """Check the GGUF file FILE against its contract: tensors, keys, offsets, sizes, values.

    Exit status: 0 it conforms, 1 it does not, 2 it is no GGUF file.
    """
    from conform.core.verify import verify as verifier
    from conform.plugins.host import load_registry

    registry = load_registry()
    contract = load_contract(contract_name) if contract_name else None
    findings = verifier.verify(file, contract, registry)
    contract = contract or verifier.embedded_contract(verifier.open_gguf(file, registry))
    report = {
        "file": str(file),
        "contract": {"name": contract.name, "digest": contract.digest},
        "conforms": not failed(findings),
        "findings": [finding.to_json() for finding in findings],
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
