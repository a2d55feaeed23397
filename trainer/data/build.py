"""Data build: text → hashed token shards of two splits, streaming, in parallel and resumable.

The bytes depend on the texts, their order, the tokenizer and the recipe only: not on the number of workers, on paths,
nor on how often the build was interrupted. `manifest.json` is written last; until then the folder holds a journal.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conform.core.files.atomic import write_atomically
from conform.core.files.cores import usable_cores
from conform.core.files.lock import FolderLock
from conform.core.tokenizer.tokenizer import read_tokenizer, read_vocabulary
from conform.trainer.data.batches import Place, read_batches
from conform.trainer.data.corpus import MAX_CHARS
from conform.trainer.data.encode import Encoder, in_order
from conform.trainer.data.journal import JOURNAL_NAME, BuildJournal, Progress, read_journal
from conform.trainer.data.manifest import (
    MANIFEST_NAME,
    SPLITS,
    TOKENIZER_NAME,
    Manifest,
    Recipe,
    SourceRecord,
    Split,
    SplitName,
    read_manifest,
)
from conform.trainer.data.shards import ShardWriter
from conform.trainer.data.sources import Source, find_sources, source_sha256
from conform.trainer.data.unigram import token_counts, unigram_loss
from conform.trainer.errors import DataError
from conform.trainer.tokenizer.recipe import find_tokenizer, semantic_digest

__all__ = ["SHARD_TOKENS", "BuildStatus", "build_data"]

SHARD_TOKENS = 1 << 26
"""Default tokens per shard: 128 MiB of uint16."""

_JOURNAL_SECONDS = 10.0
_LARGEST_UINT16_VOCAB = 1 << 16


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """For a progress display: bytes of the sources read and in all, and tokens written."""

    read: int
    total: int
    tokens: int


def build_data(
    inputs: Sequence[str],
    tokenizer: Path,
    out: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    held_out: float = 0.02,
    max_chars: int = MAX_CHARS,
    text_key: str = "text",
    suffixes: Iterable[str] = (),
    skip_bad: bool = False,
    workers: int = 0,
    on_status: Callable[[BuildStatus], None] = lambda _status: None,
) -> Manifest:
    """Build `out`, or go on with an interrupted build there, or return the manifest of a finished build of the same.

    `workers` 0 means one per core. Raises DataError when the folder holds something else, the text cannot be read,
    one of the splits would be empty, or the disk refuses; what was written stays for the next attempt.
    """
    recipe = Recipe(held_out, shard_tokens, max_chars, text_key)
    _require_recipe(recipe)
    if workers < 0:
        raise DataError(f"--workers {workers}: expected a positive number, or 0 for one per core")
    workers = workers or usable_cores()
    sources = find_sources(inputs, suffixes)
    with ThreadPoolExecutor(workers) as pool:
        records = tuple(
            SourceRecord(source.name, source.nbytes, digest)
            for source, digest in zip(sources, pool.map(source_sha256, sources), strict=True)
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file, but the shards need a folder; choose another name")
    build = _Build(out, sources, records, find_tokenizer(tokenizer), recipe, skip_bad)
    try:
        return build.run(workers, on_status)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written: {error.strerror}; make room or choose another folder, then repeat the command"
        ) from error


class _Build:
    def __init__(
        self,
        out: Path,
        sources: tuple[Source, ...],
        records: tuple[SourceRecord, ...],
        model: Path,
        recipe: Recipe,
        skip_bad: bool,
    ) -> None:
        self.out, self.sources, self.records, self.model, self.recipe = out, sources, records, model, recipe
        self.skip_bad = skip_bad
        proto = read_vocabulary(model)
        self.vocab, self.bos_id, self.eos_id = len(proto.pieces), proto.bos_id, proto.eos_id
        if min(self.bos_id, self.eos_id) < 0:
            raise DataError(f"{model}: has no bos or eos piece, which delimit documents; train one by conform's recipe")
        self.dtype = "uint16" if self.vocab <= _LARGEST_UINT16_VOCAB else "uint32"
        self.model_bytes = read_tokenizer(model)
        self.sha256 = hashlib.sha256(self.model_bytes).hexdigest()
        if proto.digest != self.sha256:
            raise DataError(f"{model}: changed while it was read; try again when nothing writes it any more")
        facts = [dataclasses.astuple(recipe), [dataclasses.astuple(record) for record in records], self.sha256]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def run(self, workers: int, on_status: Callable[[BuildStatus], None]) -> Manifest:
        if (self.out / MANIFEST_NAME).exists():
            return self._finished()
        self.out.mkdir(parents=True, exist_ok=True)
        with _locked(self.out):
            journal = read_journal(self.out, self.fingerprint) or self._start()
            self._write_shards(journal, workers, on_status)
            return self._finish(journal)

    def _finished(self) -> Manifest:
        manifest = read_manifest(self.out)
        if (manifest.recipe, manifest.sources, manifest.tokenizer_sha256) != (self.recipe, self.records, self.sha256):
            raise DataError(
                f"{self.out}: holds finished data of other inputs, tokenizer or options; "
                "delete the folder or choose another"
            )
        # The process may have died between completing the build and taking the journal away.
        (self.out / JOURNAL_NAME).unlink(missing_ok=True)
        return manifest

    def _start(self) -> BuildJournal:
        if foreign := sorted(path.name for path in self.out.iterdir() if not path.name.startswith(".")):
            raise DataError(f"{self.out}: not empty (it holds {foreign[0]}); choose a new folder")
        splits: dict[SplitName, Progress] = {name: Progress([]) for name in SPLITS}
        journal = BuildJournal(self.fingerprint, 0, 0, {}, splits)
        journal.write(self.out)
        return journal

    def _write_shards(self, journal: BuildJournal, workers: int, on_status: Callable[[BuildStatus], None]) -> None:
        encoder = Encoder(self.model_bytes, self.dtype, self.bos_id, self.eos_id, self.recipe.held_out)
        total = sum(source.nbytes for source in self.sources)
        start = Place(journal.source, journal.document)
        batches = read_batches(self.sources, self.recipe, start, skip_bad=self.skip_bad)
        saved = time.monotonic()
        with ExitStack() as stack:
            writers = {name: ShardWriter(self.out, name, self.recipe.shard_tokens, self.dtype) for name in SPLITS}
            for name, writer in writers.items():
                stack.callback(writer.close)
                done = journal.splits[name]
                writer.resume(done.shards, done.open_tokens, done.open_sha256)
            for batch, encoded in in_order(lambda batch: encoder(batch.texts), batches, workers):
                completed = sum(writers[name].append(part.tokens) for name, part in encoded.items())
                journal.advance(batch, encoded)
                if completed or time.monotonic() - saved > _JOURNAL_SECONDS:
                    journal.save(self.out, writers)
                    saved = time.monotonic()
                on_status(BuildStatus(batch.position, total, sum(writer.tokens for writer in writers.values())))
            for writer in writers.values():
                writer.finish()
            journal.save(self.out, writers)

    def _finish(self, journal: BuildJournal) -> Manifest:
        self._require_both_splits(journal)
        self._require_same_sources()
        write_atomically(self.out / TOKENIZER_NAME, self.model_bytes)
        splits = {name: self._split(name, journal.splits[name]) for name in SPLITS}
        manifest = Manifest(
            format=1,
            dtype=self.dtype,
            vocab=self.vocab,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            tokenizer_sha256=self.sha256,
            tokenizer_semantic_digest=semantic_digest(self.out / TOKENIZER_NAME),
            train=splits["train"],
            held_out=splits["held_out"],
            unigram_loss=unigram_loss(
                *(token_counts(self.out, splits[name].shards, self.dtype, self.vocab) for name in SPLITS)
            ),
            recipe=self.recipe,
            skipped=journal.skipped,
            sources=self.records,
        )
        write_atomically(self.out / MANIFEST_NAME, manifest.to_json().encode())
        (self.out / JOURNAL_NAME).unlink(missing_ok=True)
        return manifest

    def _split(self, name: SplitName, progress: Progress) -> Split:
        tokens = sum(shard.tokens for shard in progress.shards)
        return Split(progress.documents, progress.bytes, tokens, tuple(progress.shards))

    def _require_same_sources(self) -> None:
        """Pass when the text still is what was hashed before it was read. Raises DataError naming what is not."""
        for source, record in zip(self.sources, self.records, strict=True):
            if source_sha256(source) != record.sha256:
                raise DataError(
                    f"{source.path}: changed while the data was built; delete {self.out} and build again when nothing "
                    "writes it any more"
                )

    def _require_both_splits(self, journal: BuildJournal) -> None:
        documents = {name: journal.splits[name].documents for name in SPLITS}
        if all(documents.values()):
            return
        # Nothing to go on with: the same inputs and options end here again.
        for path in self.out.iterdir():
            if path.name == JOURNAL_NAME or path.name.startswith(SPLITS):
                path.unlink()
        raise DataError(
            f"{self.out}: {documents['train']} documents to train on and {documents['held_out']} held out; each split "
            f"needs one: give more text, another --held-out, or cut long documents by a smaller --max-document"
        )


def _require_recipe(recipe: Recipe) -> None:
    if not 0 < recipe.held_out < 1:
        raise DataError(f"--held-out {recipe.held_out}: expected a fraction between 0 and 1, like 0.02")
    if recipe.shard_tokens < 1 or recipe.max_chars < 1:
        raise DataError(
            f"--shard-tokens {recipe.shard_tokens}, --max-document {recipe.max_chars}: expected positive numbers"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two builds into one folder would mix their tokens; the second is refused."""
    lock = FolderLock(folder)
    if not lock.acquire():
        raise DataError(f"{folder}: another build is writing there; wait for it or choose another folder")
    try:
        yield
    finally:
        lock.release()
