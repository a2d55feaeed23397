"""`conform data`: build, verify and show token shards."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conform.contract.finding import failed
from conform.core.cli.console import console, print_findings, print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.trainer.data.manifest import Manifest, manifest_digest, read_manifest

if TYPE_CHECKING:
    from conform.trainer.data.build import BuildStatus

__all__ = ["build_progress", "data"]


@click.group()
def data() -> None:
    """Build, verify and show token shards."""


@data.command()
@click.option("--input", "inputs", multiple=True, required=True, metavar="PATH|NAME", help="Text; may be repeated.")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="A tokenizer.model or its folder.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--shard-tokens", default=1 << 26, show_default=True, help="Tokens per shard.")
@click.option("--held-out", default=0.02, show_default=True, help="Fraction of documents, chosen by their hash.")
@click.option("--max-document", default=1 << 20, show_default=True, help="Cut longer documents; in characters.")
@click.option("--text-key", default="text", show_default=True, help="Key of JSONL objects, column of Parquet files.")
@click.option("--suffix", "suffixes", multiple=True, help="Another ending that is text inside folders, like .html.")
@click.option("--on-bad", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True)
@click.option("--workers", default=0, help="Threads; by default one per core. The bytes are the same for any number.")
@json_option
def build(
    inputs: tuple[str, ...],
    tokenizer: Path,
    out: Path,
    shard_tokens: int,
    held_out: float,
    max_document: int,
    text_key: str,
    suffixes: tuple[str, ...],
    on_bad: str,
    workers: int,
    json_path: str | None,
) -> int:
    """Tokenise text into hashed shards; repeat the command to go on with an interrupted build.

    PATH is a text, JSONL or Parquet file or a folder of them, also as .gz or .zst; NAME is python-stdlib, the sources
    of the running Python's standard library. Documents with invalid UTF-8, NUL characters or malformed JSON are
    refused by name, or with --on-bad skip left out and counted.
    """
    from conform.trainer.data.build import build_data

    with build_progress() as on_status:
        manifest = build_data(
            inputs,
            tokenizer,
            out,
            shard_tokens=shard_tokens,
            held_out=held_out,
            max_chars=max_document,
            text_key=text_key,
            suffixes=suffixes,
            skip_bad=on_bad == "skip",
            workers=workers,
            on_status=on_status,
        )
    if not write_json(_summary(out, manifest), json_path):
        _print_summary(out, manifest)
    return 0


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def verify(folder: Path, json_path: str | None) -> int:
    """Check every byte of FOLDER against its manifest: missing, changed, truncated and foreign files."""
    from conform.trainer.data.verify import verify_data

    findings = verify_data(folder)
    report = {**_summary(folder, read_manifest(folder)), "findings": [finding.to_json() for finding in findings]}
    if not write_json(report, json_path):
        if findings:
            print_findings(findings)
        verdict = "does not conform" if failed(findings) else "conforms"
        console().print(f"{folder}: {verdict}; manifest {manifest_digest(folder)}", markup=False)
    return 1 if failed(findings) else 0


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def show(folder: Path, json_path: str | None) -> int:
    """Show what FOLDER holds, as its manifest says."""
    manifest = read_manifest(folder)
    if not write_json(_summary(folder, manifest), json_path):
        _print_summary(folder, manifest)
    return 0


def _summary(folder: Path, manifest: Manifest) -> dict[str, object]:
    splits = {
        name: {"documents": split.documents, "bytes": split.bytes, "tokens": split.tokens, "shards": len(split.shards)}
        for name, split in (("train", manifest.train), ("held_out", manifest.held_out))
    }
    return {
        **splits,
        "manifest_sha256": manifest_digest(folder),
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "vocab": manifest.vocab,
        "dtype": manifest.dtype,
        "bytes_per_token": manifest.bytes_per_token,
        "unigram_perplexity": manifest.unigram_perplexity,
        "skipped": manifest.skipped,
        "sources": len(manifest.sources),
    }


def _print_summary(folder: Path, manifest: Manifest) -> None:
    rows = []
    for name, split in (("train", manifest.train), ("held out", manifest.held_out)):
        counts = (split.documents, split.bytes, split.tokens, len(split.shards))
        rows.append((name, *(f"{count:,}" for count in counts)))
    print_table((str(folder), "documents", "bytes", "tokens", "shards"), rows)
    facts = [
        ("vocabulary", f"{manifest.vocab:,} ids as {manifest.dtype}"),
        ("each document", f"bos {manifest.bos_id}, its ids, eos {manifest.eos_id}"),
        ("sources", f"{len(manifest.sources):,}"),
        ("skipped", ", ".join(f"{count:,} × {what}" for what, count in manifest.skipped.items()) or "none"),
        ("bytes per token", f"{manifest.bytes_per_token:.3f} (held out)"),
        ("unigram perplexity", f"{manifest.unigram_perplexity:.2f} (held out)"),
        ("tokenizer", manifest.tokenizer_sha256),
        ("manifest", manifest_digest(folder)),
    ]
    print_table(("", ""), facts)


@contextmanager
def build_progress(seconds: float = 10.0) -> Iterator[Callable[["BuildStatus"], None]]:
    """A bar on a terminal, else a line after that many seconds; on stderr either way."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    stream = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    shown = time.monotonic()
    with Progress(*columns, console=stream, transient=True, disable=not stream.is_terminal) as progress:
        task = progress.add_task("tokenising")

        def on_status(status: "BuildStatus") -> None:
            nonlocal shown
            text = f"{status.tokens:,} tokens"
            progress.update(task, completed=status.read, total=max(1, status.total), description=text)
            if not stream.is_terminal and time.monotonic() - shown >= seconds:
                shown = time.monotonic()
                click.echo(f"{text}, {status.read:,} of {status.total:,} bytes read", err=True)

        yield on_status
