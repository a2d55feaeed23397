"""`conform tokenizer`: train and check a SentencePiece tokenizer."""

from pathlib import Path

import click

from conform.contract.finding import failed
from conform.contract.load import load_contract
from conform.core.cli.console import console, print_findings, print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.trainer.tokenizer.report import TokenizerReport

__all__ = ["tokenizer"]


@click.group()
def tokenizer() -> None:
    """Train and check a SentencePiece tokenizer."""


@tokenizer.command()
@click.option("--input", "inputs", multiple=True, required=True, metavar="PATH|NAME", help="Text; may be repeated.")
@click.option("--vocab", type=int, required=True, help="Number of pieces, the special and byte pieces among them.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--text-key", default="text", show_default=True, help="Key of JSONL objects, column of Parquet files.")
@click.option("--suffix", "suffixes", multiple=True, help="Another ending that is text inside folders, like .html.")
@click.option("--on-bad", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True)
@click.option("--sample-chars", default=1 << 28, show_default=True, help="Use at most about so many characters.")
@json_option
def train(
    inputs: tuple[str, ...],
    vocab: int,
    out: Path,
    text_key: str,
    suffixes: tuple[str, ...],
    on_bad: str,
    sample_chars: int,
    json_path: str | None,
) -> int:
    """Train a BPE tokenizer on which a score-merging runtime can agree.

    PATH is a text, JSONL or Parquet file or a folder of them, also as .gz or .zst; NAME is python-stdlib, the sources
    of the running Python's standard library. Documents with invalid UTF-8, NUL characters or malformed JSON are
    refused by name, or with --on-bad skip left out and counted. Writes tokenizer.model, recipe.toml and report.json.
    """
    from conform.trainer.tokenizer.recipe import train_tokenizer

    with console(stderr=True).status("training the tokenizer"):
        report = train_tokenizer(
            inputs,
            vocab,
            out,
            text_key=text_key,
            suffixes=suffixes,
            sample_chars=sample_chars,
            skip_bad=on_bad == "skip",
        )
    if not write_json(report.to_json(), json_path):
        _print_report(report, out)
    return 1 if report.round_trip_failures else 0


@tokenizer.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--contract", metavar="NAME|PATH", help="Also check vocabulary size, ids and flags against a contract.")
@json_option
def check(model: Path, contract: str | None, json_path: str | None) -> int:
    """Check that a runtime which merges by score will agree with MODEL (a file, or the folder that holds it)."""
    from conform.trainer.tokenizer.check import check_tokenizer
    from conform.trainer.tokenizer.recipe import semantic_digest, tokenizer_sha256

    findings = check_tokenizer(model, load_contract(contract) if contract else None)
    digests = {"sha256": tokenizer_sha256(model), "semantic_digest": semantic_digest(model)}
    if not write_json({**digests, "findings": [finding.to_json() for finding in findings]}, json_path):
        if findings:
            print_findings(findings)
        verdict = "does not conform" if failed(findings) else "conforms"
        console().print(f"{model}: {verdict}; semantic digest {digests['semantic_digest']}", markup=False)
    return 1 if failed(findings) else 0


def _print_report(report: TokenizerReport, out: Path) -> None:
    rows = [
        ("pieces", f"{report.vocab:,}"),
        ("trained on", f"{report.documents:,} documents, {report.bytes:,} bytes"),
        ("skipped documents", f"{report.skipped:,}"),
        ("bytes per token", f"{report.bytes_per_token:.3f}"),
        ("tokens per word", f"{report.fertility:.3f}"),
        ("unused pieces", f"{report.unused_pieces:,}"),
        ("hostile texts kept", f"{report.round_trips - len(report.round_trip_failures)} of {report.round_trips}"),
        ("sha256", report.sha256),
        ("semantic digest", report.semantic_digest),
    ]
    print_table(("tokenizer", str(out)), rows)
