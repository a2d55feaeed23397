"""conform verify: a GGUF file against its contract."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from conform.contract.load import load_contract
from conform.core.cli.console import print_findings
from conform.core.cli.options import PATH, json_option
from conform.core.cli.output import write_json

if TYPE_CHECKING:
    from conform.core.verify import Verification

__all__ = ["verify"]


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--contract", "contract_name", metavar="NAME", help="A contract's name or file.  [default: what FILE says]"
)
@click.option("--checkpoint", type=PATH, help="What FILE was made from; decides what FILE alone cannot show.")
@click.option(
    "--tokenizer", type=PATH, help="The tokenizer.model or tokenizer.json.  [default: the one in --checkpoint]"
)
@json_option
def verify(
    file: Path, contract_name: str | None, checkpoint: Path | None, tokenizer: Path | None, json_path: str | None
) -> int:
    """Check the GGUF file FILE against its contract: tensors, keys, offsets, sizes, values, digests.

    With --checkpoint the tokens, scores and weights of FILE are compared with those that it was made from as well.

    A file that carries no contract is held to what its own keys say, which shows that it is sound.

    Exit status: 0 it conforms or is sound, 1 it does not, 2 it is not a GGUF file.
    """
    from conform.core.verify import verify_file
    from conform.plugins.host import load_registry

    if checkpoint is None and tokenizer is not None:
        raise click.UsageError("--tokenizer is compared with FILE only together with --checkpoint")
    registry = load_registry()
    if checkpoint is None:
        verification = verify_file(file, registry, load_contract(contract_name) if contract_name else None)
    else:
        from conform.core.verify.source import verify_against

        verification = verify_against(file, registry, checkpoint, contract_name, tokenizer)
    if not write_json(_to_json(verification), json_path):
        _print(verification)
    return 0 if verification.sound else 1


def _to_json(verification: "Verification") -> dict[str, object]:
    contract = verification.contract
    return {
        "file": str(verification.file),
        "contract": {"name": contract.name, "digest": contract.digest, "implied": verification.implied},
        "sound": verification.sound,
        "conforms": verification.conforms,
        "findings": [finding.to_json() for finding in verification.findings],
    }


def _print(verification: "Verification") -> None:
    if verification.findings:
        print_findings(verification.findings)
    errors = sum(finding.severity == "error" for finding in verification.findings)
    click.echo(f"{verification.file} {_verdict(verification, errors)}")


def _verdict(verification: "Verification", errors: int) -> str:
    if verification.implied:
        sound = f"is not sound: {errors} errors" if errors else "is sound"
        return f"{sound}; it carries no contract, so it was held to what its own keys say"
    contract = verification.contract.name
    return f"does not conform to contract {contract}: {errors} errors" if errors else f"conforms to contract {contract}"
