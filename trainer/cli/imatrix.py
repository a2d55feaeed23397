"""conform imatrix: measure, show, merge."""

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from conform.contract.check import check_tensors
from conform.contract.finding import failed
from conform.contract.inventory import inventory
from conform.core.cli.console import print_findings, print_table, progress_bar
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.core.export.target import check_target
from conform.core.gguf.imatrix import ImportanceEntry, ImportanceMatrix, read_imatrix, write_imatrix
from conform.trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from conform.trainer.data.loader import TokenLoader
    from conform.trainer.importance.measure import SquareSums

__all__ = ["imatrix"]

# An interruption costs no more than this, and one batch.
_SECONDS_BETWEEN_SAVES = 10


class _MeasureByDefault(click.Group):
    """`conform imatrix CHECKPOINT …` means `conform imatrix measure CHECKPOINT …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_MeasureByDefault)
def imatrix() -> None:
    """Measure and show importance matrices.

    `conform imatrix CHECKPOINT --data SHARDS -o FILE` measures; see `conform imatrix measure --help`.
    """


@imatrix.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of token shards to calibrate on.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file.")
@click.option("--contract", "name", help="The contract; without it, the one the checkpoint was trained under.")
@click.option("--chunks", type=click.IntRange(1), default=128, show_default=True, help="Sequences to run.")
@click.option("--sequence", type=click.IntRange(1), default=512, show_default=True, help="Tokens of a sequence.")
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Sequences at once.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of sequences.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, such as cpu or cuda.")
def measure(
    checkpoint: Path,
    data: Path,
    output: Path,
    name: str | None,
    chunks: int,
    sequence: int,
    batch: int,
    seed: int,
    device: str,
) -> int:
    """Measure the mean squared inputs of CHECKPOINT's linear layers over calibration text, and write FILE.

    When interrupted, give the same command again: the measurement continues where it stopped.
    """
    from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint
    from conform.trainer.data.loader import TokenLoader
    from conform.trainer.importance import measure as importance

    check_target(output)
    opened = open_checkpoint(checkpoint)
    spec = contract_of(opened, name)
    if spec.model.tied_embeddings:
        opened = opened.without_tied_copy()
    findings = check_tensors(opened.tensors, spec.model)
    if failed(findings):
        print_findings(findings)
        click.echo(f"{checkpoint} does not meet contract {spec.name}; nothing was measured.")
        return 1
    for tensor in inventory(spec.model):
        opened.check_finite(tensor.name)
    sequence = min(sequence, spec.model.context)
    opened.hash_files()
    model = importance.load_model(opened, spec.model, _device(device))
    opened.check_unchanged()
    with TokenLoader(data, sequence, batch, seed) as loader:
        _check_vocabulary(loader, spec.model.vocab, data)
        provenance = {
            "conform.contract.digest": spec.digest,
            "conform.checkpoint.digest": opened.digest,
            "conform.imatrix.data": loader.manifest_digest,
            "conform.imatrix.settings": f"{chunks} sequences of {sequence}, batch {batch}, seed {seed}",
        }
        partial = output.with_name(f".{output.name}.sums")
        sums = importance.read_partial(partial, spec.model, provenance)
        if sums.chunks:
            click.echo(f"{output}: continuing after {sums.chunks} of {chunks} sequences", err=True)
        grown = importance.accumulate(model, _batches(loader, sums.chunks, chunks), sums)
        _accumulate(grown, sums, chunks, lambda: importance.write_partial(partial, sums, provenance))
        loader.check_unchanged()
    write_imatrix(output, sums.matrix(data.resolve().name, sequence, provenance))
    partial.unlink(missing_ok=True)
    click.echo(f"{output}: {len(sums.sums)} tensors over {sums.tokens:,} tokens in {sums.chunks} sequences")
    return 0


@imatrix.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, json_path: str | None) -> int:
    """Show what FILE (GGUF or .dat) holds: statistics of each tensor's weights, and coverage."""
    matrix = read_imatrix(file)
    rows = [_statistics(name, entry) for name, entry in matrix.entries.items()]
    report = {"datasets": matrix.datasets, "chunks": matrix.chunk_count, "chunk_size": matrix.chunk_size}
    finite = [{key: value if _is_finite(value) else None for key, value in row.items()} for row in rows]
    if not write_json(report | {"provenance": dict(matrix.provenance), "tensors": finite}, json_path):
        headings = ("tensor", "columns", "counted", "mean", "largest", "largest / mean", "columns never active")
        print_table(headings, [[_shown(value) for value in row.values()] for row in rows])
        covered = sum(1 for row in rows if row["columns_never_active"] == 0)
        datasets = ", ".join(matrix.datasets) or "an unnamed data set"
        click.echo(f"{covered} of {len(rows)} tensors are covered in full; {matrix.chunk_count} chunks of {datasets}")
    return 0


@imatrix.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file.")
def merge(files: tuple[Path, ...], output: Path) -> int:
    """Merge FILES, measured on one model over different text, into one."""
    from conform.trainer.importance.measure import merge as merged

    check_target(output)
    together = merged([_mergeable(file) for file in files])
    write_imatrix(output, together)
    click.echo(f"{output}: {len(together.entries)} tensors, {together.chunk_count} chunks of {len(files)} files")
    return 0


def _device(name: str) -> "torch.device":
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"{name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _check_vocabulary(loader: "TokenLoader", vocab: int, data: Path) -> None:
    if loader.manifest.vocab > vocab:
        raise DataError(
            f"{data}: made with a tokenizer of {loader.manifest.vocab} pieces, but the contract has {vocab}; build the "
            "data with the contract's tokenizer"
        )


def _batches(loader: "TokenLoader", done: int, chunks: int) -> Iterator[NDArray[np.int64]]:
    edges = [*range(done, chunks, loader.global_batch), chunks]
    for start, end in pairwise(edges):
        yield np.ascontiguousarray(loader.batch(start // loader.global_batch)[: end - start, :-1])


def _accumulate(grown: "Iterator[SquareSums]", sums: "SquareSums", chunks: int, save: "Callable[[], None]") -> None:
    # Saved between batches only: in the middle of an addition the sums are wrong.
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=chunks, completed=sums.chunks)
        saved = time.monotonic()
        for _ in grown:
            bar.update(task, completed=sums.chunks)
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                save()
                saved = time.monotonic()


def _mergeable(file: Path) -> ImportanceMatrix:
    matrix = read_imatrix(file)
    if not matrix.entries:
        raise DataError(f"{file}: holds no tensor; nothing was measured")
    return matrix


def _statistics(name: str, entry: ImportanceEntry) -> dict[str, str | int | float]:
    weights = entry.weights.astype(np.float64)
    mean, largest = (float(weights.mean()), float(weights.max())) if weights.size else (0.0, 0.0)
    return {
        "tensor": name,
        "columns": weights.size,
        "count": entry.count,
        "mean": mean,
        "largest": largest,
        "spread": largest / mean if mean else 0.0,
        "columns_never_active": int(np.count_nonzero(weights == 0)),
    }


def _is_finite(value: str | float) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def _shown(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
