"""Data verify: a folder of token shards against its manifest, every violation a finding."""

from collections.abc import Iterator
from pathlib import Path

from conform.contract.finding import Finding, Severity
from conform.core.files.digest import file_sha256
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.trainer.data.journal import JOURNAL_NAME
from conform.trainer.data.manifest import MANIFEST_NAME, SPLITS, TOKENIZER_NAME, Manifest, Shard, read_manifest
from conform.trainer.data.shards import open_shard
from conform.trainer.data.unigram import token_counts, unigram_loss
from conform.trainer.errors import InputError
from conform.trainer.tokenizer.recipe import semantic_digest

__all__ = ["verify_data"]

_RESTORE = "restore it or build the data again"


def verify_data(folder: Path) -> list[Finding]:
    """Missing, truncated, changed and foreign files, ids outside the vocabulary, and a wrong tokenizer.

    Raises InputError when the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    findings = [*_check_files(folder, manifest), *_check_tokenizer(folder, manifest)]
    for shard in manifest.shards:
        findings += _check_shard(folder, shard, manifest)
    return findings or list(_check_counts(folder, manifest))


def _check_files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    known = {shard.name for shard in manifest.shards} | {MANIFEST_NAME, TOKENIZER_NAME}
    for path in sorted(folder.iterdir()):
        # A journal is left when a build dies between writing the manifest and removing it.
        if path.name not in known and path.name != JOURNAL_NAME:
            severity: Severity = "error" if path.suffix == ".bin" else "warning"
            yield Finding(severity, path.name, "only files of the manifest", "a foreign file", "remove it")


def _check_tokenizer(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        yield Finding("error", TOKENIZER_NAME, manifest.tokenizer_sha256, "missing", _RESTORE)
    elif (found := file_sha256(path)) != manifest.tokenizer_sha256:
        yield Finding("error", TOKENIZER_NAME, manifest.tokenizer_sha256, found, _RESTORE)
    elif (found := semantic_digest(path)) != manifest.tokenizer_semantic_digest:
        yield Finding("error", "tokenizer_semantic_digest", manifest.tokenizer_semantic_digest, found)
    else:
        vocabulary = read_vocabulary(path)
        of_tokenizer = {"vocab": len(vocabulary.pieces), "bos_id": vocabulary.bos_id, "eos_id": vocabulary.eos_id}
        for key, expected in of_tokenizer.items():
            if (stated := getattr(manifest, key)) != expected:
                yield Finding("error", key, f"{expected}, as the tokenizer has it", str(stated))


def _check_shard(folder: Path, shard: Shard, manifest: Manifest) -> Iterator[Finding]:
    try:
        tokens = open_shard(folder, shard, manifest.dtype)
        found = file_sha256(folder / shard.name)
    except InputError as error:
        yield Finding("error", shard.name, f"{shard.tokens} tokens", str(error))
        return
    if found != shard.sha256:
        yield Finding("error", shard.name, f"sha256 {shard.sha256}", found, _RESTORE)
    elif (largest := int(tokens.max())) >= manifest.vocab:
        yield Finding("error", shard.name, f"ids below {manifest.vocab}", str(largest))


def _check_counts(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    counts = [token_counts(folder, manifest.split(name).shards, manifest.dtype, manifest.vocab) for name in SPLITS]
    for name, count in zip(SPLITS, counts, strict=True):
        documents = manifest.split(name).documents
        for piece in (manifest.bos_id, manifest.eos_id):
            if count[piece] != documents:
                yield Finding("error", f"{name}.documents", str(documents), f"{count[piece]} tokens of id {piece}")
    if (loss := unigram_loss(*counts)) != manifest.unigram_loss:
        yield Finding("error", "unigram_loss", str(manifest.unigram_loss), str(loss))
