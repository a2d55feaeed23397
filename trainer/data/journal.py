"""Journal: how far a build has come, so that a killed one goes on where it was instead of starting again."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.core.files.atomic import write_atomically
from conform.trainer.data.batches import Batch
from conform.trainer.data.encode import Encoded
from conform.trainer.data.manifest import SPLITS, Shard, SplitName
from conform.trainer.data.shards import ShardWriter
from conform.trainer.errors import DataError

__all__ = ["JOURNAL_NAME", "Journal", "Progress", "read_journal"]

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
class Journal:
    """Everything up to document `document` of source `source` is on disk. `fingerprint` is of what is being built."""

    fingerprint: str
    source: int
    document: int
    skipped: dict[str, int]
    splits: dict[SplitName, Progress]

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


def read_journal(folder: Path, fingerprint: str) -> Journal | None:
    """The journal of an interrupted build of exactly this, or None when there is no journal.

    Raises DataError when it is of another build, or damaged.
    """
    path = folder / JOURNAL_NAME
    if not path.exists():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data.pop("sha256") != _digest(data):
            raise ValueError("not as it was written")  # one sentence for every damage
        splits = {name: _progress(data["splits"][name]) for name in SPLITS}
        journal = Journal(data["fingerprint"], int(data["source"]), int(data["document"]), data["skipped"], splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged; delete {folder} and build again") from error
    if journal.fingerprint != fingerprint:
        raise DataError(
            f"{folder}: holds an unfinished build of other inputs, tokenizer or options; "
            "repeat it as it was started, delete the folder or choose another"
        )
    return journal


def _progress(data: dict[str, Any]) -> Progress:
    shards = [Shard(**shard) for shard in data["shards"]]
    return Progress(
        shards, int(data["open_tokens"]), str(data["open_sha256"]), int(data["documents"]), int(data["bytes"])
    )


def _digest(facts: Mapping[str, Any]) -> str:
    # A changed count would pass unnoticed into the manifest, and with it into every shard that follows.
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
