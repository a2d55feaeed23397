"""conform repack: an i2_s file in another byte layout."""

from pathlib import Path
from typing import cast, get_args

import click

from conform.core.cli.options import PATH, json_option
from conform.core.cli.output import write_json
from conform.core.i2_s.format import I2SLayout

__all__ = ["repack"]


@click.command()
@click.argument("file", type=PATH)
@click.option("--layout", required=True, type=click.Choice(get_args(I2SLayout)), help="The byte layout to write.")
@click.option(
    "--from",
    "source",
    type=click.Choice(get_args(I2SLayout)),
    help="The layout of FILE, where nothing in it shows that.",
)
@click.option("--checkpoint", type=PATH, help="What FILE was made from; proves its layout.")
@click.option("--contract", metavar="NAME", help="The contract of that checkpoint.  [default: its own]")
@click.option("-o", "--output", required=True, type=PATH, help="The file to write.")
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
    the checkpoint, or from statistics where these leave no doubt; otherwise it must be stated with --from.
    """
    from conform.core.checkpoint.checkpoint import open_checkpoint
    from conform.core.export.target import check_target
    from conform.core.gguf.read import read_gguf
    from conform.core.i2_s import repack as repacker

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
