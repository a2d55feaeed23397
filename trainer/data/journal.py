"""Build journal: how far a build has come, so that a killed one goes on where it was instead of starting again."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from conform.contract.mapping import Rule, from_mapping
from conform.core.files.atomic import write_atomically
from conform.core.files.json import read_json_object
from conform.trainer.data.batches import Batch
from conform.trainer.data.encode import Encoded
from conform.trainer.data.manifest import SPLITS, Shard, SplitName
from conform.trainer.data.shards import ShardWriter
from conform.trainer.errors import DataError

__all__ = ["JOURNAL_NAME", "BuildJournal", "Progress", "read_journal"]

JOURNAL_NAME = "build.json"


@dataclass(slots=True)
class Progress:
    """One split: its finished shards, the tokens of the open one, and what was counted."""

    shards: list[Shard]
    open_tokens: int = 0
    open_sha256: str = ""
    documents: int = 0
    bytes: int = 0


@dataclass(slots=True)
class BuildJournal:
    """Everything up to document `document` of source `source` is on disk. `fingerprint` is of what is being built."""

    fingerprint: str
    source: int
    document: int
    skipped: dict[str, int]
    splits: Annotated[dict[SplitName, Progress], Rule("both splits", lambda splits: splits.keys() == set(SPLITS))]

    def advance(self, batch: Batch, encoded: Mapping[SplitName, Encoded]) -> None:
        """Count a batch whose tokens have been handed to the writers."""
        self.source, self.document = batch.then.source, batch.then.document
        self.skipped = dict(Counter(self.skipped) + batch.skipped)
        for name, part in encoded.items():
            self.splits[name].documents += part.documents
            self.splits[name].bytes += part.bytes

    def save(self, folder: Path, writers: Mapping[SplitName, ShardWriter]) -> None:
        """Bring what the writers hold to disk, then write down that it is there."""
        for name, writer in writers.items():
            writer.sync()
            self.splits[name].shards = list(writer.shards)
            self.splits[name].open_tokens = writer.open_tokens
            self.splits[name].open_sha256 = writer.open_sha256
        self.write(folder)

    def write(self, folder: Path) -> None:
        """Replace the journal in that folder."""
        facts = dataclasses.asdict(self)
        write_atomically(folder / JOURNAL_NAME, json.dumps({**facts, "sha256": _digest(facts)}).encode())


def read_journal(folder: Path, fingerprint: str) -> BuildJournal | None:
    """The journal of an interrupted build of exactly this, or None when there is none.

    Raises InputError when it is damaged, DataError when it was changed or is of another build.
    """
    path = folder / JOURNAL_NAME
    if not path.exists():
        return None
    advice = f"delete {folder} and build again"
    data = dict(read_json_object(path, "the journal of a build", advice=advice))
    if data.pop("sha256", None) != _digest(data):
        raise DataError(f"{path}: damaged; {advice}")
    journal = from_mapping(BuildJournal, data, str(path))
    if journal.fingerprint != fingerprint:
        raise DataError(
            f"{folder}: holds an unfinished build of other inputs, tokenizer or options; "
            "repeat it as it was started, delete the folder or choose another"
        )
    return journal


def _digest(facts: Mapping[str, Any]) -> str:
    # A changed count would pass unnoticed into the manifest, and with it into every shard that follows.
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
