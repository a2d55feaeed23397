"""Manifest: what a folder of token shards holds, hash by hash. It is written last, so a folder with one is complete."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from conform.contract.mapping import Rule, from_mapping
from conform.core.files.digest import file_sha256
from conform.core.files.json import read_json_object
from conform.trainer.errors import DataError

__all__ = [
    "DTYPES",
    "MANIFEST_NAME",
    "SPLITS",
    "TOKENIZER_NAME",
    "Manifest",
    "Recipe",
    "Shard",
    "SourceRecord",
    "Split",
    "SplitName",
    "manifest_digest",
    "read_manifest",
]

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.model"
DTYPES: Mapping[str, int] = {"uint16": 2, "uint32": 4}
"""Token ids on disk, little-endian, and their bytes per token."""

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

_FORMAT = 1
_LARGEST_FILE = 1 << 28  # a million sources need 150 MB; anything larger would only serve to exhaust memory
_LARGEST_VOCAB = 1 << 22  # as of a SentencePiece model; counting tokens takes eight bytes for each
_LARGEST_LOSS = 64.0  # nats per token: more than the logarithm of any count of tokens
_SHARD_NAME = re.compile(r"(train|held_out)-\d{5,9}\.bin")
_ADVICE = "build the data with `conform data build`, or let an interrupted build finish"
_Count = Annotated[int, Rule("a number from 0 to 2^62", lambda count: 0 <= count <= 2**62)]
_Loss = Annotated[float, Rule(f"a number from 0 to {_LARGEST_LOSS} nats per token", lambda x: 0 <= x <= _LARGEST_LOSS)]
_Sha256 = Annotated[str, Rule("64 hexadecimal digits", re.compile(r"[0-9a-f]{64}").fullmatch)]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of `tokens` little-endian ids; `sha256` is of its bytes."""

    name: str
    tokens: _Count
    sha256: _Sha256


@dataclass(frozen=True, slots=True)
class Split:
    """One side of the data: the concatenation of its shards is one stream of documents, `bytes` their UTF-8 size."""

    documents: _Count
    bytes: _Count
    tokens: _Count
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A file that the tokens came from; its name holds no absolute path."""

    name: str
    bytes: _Count
    sha256: _Sha256


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides sources and tokenizer that decides the bytes of the shards."""

    held_out: Annotated[float, Rule("a fraction between 0 and 1", lambda share: 0 < share < 1)]
    shard_tokens: _Count
    max_chars: _Count
    text_key: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished build. Every document is `bos_id`, its ids, `eos_id`; it may continue in the next shard.

    `unigram_loss` is the held-out split's cross-entropy in nats per token under the token frequencies of the train
    split, one added to each count. `skipped` counts the documents left out, by reason.
    """

    format: int
    dtype: str
    vocab: _Count
    bos_id: _Count
    eos_id: _Count
    tokenizer_sha256: str
    tokenizer_semantic_digest: str
    train: Split
    held_out: Split
    unigram_loss: _Loss
    recipe: Recipe
    skipped: dict[str, _Count]
    sources: tuple[SourceRecord, ...]

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        return self.train if name == "train" else self.held_out

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard of both splits."""
        return self.train.shards + self.held_out.shards

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of held-out text per held-out token: loss / (ln 2 × this) is in bits per byte."""
        return self.held_out.bytes / self.held_out.tokens

    @property
    def unigram_perplexity(self) -> float:
        """The held-out perplexity of a model that knows the token frequencies of the train split and nothing else."""
        return math.exp(self.unigram_loss)

    def to_json(self) -> str:
        """The canonical text of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished build.

    Raises InputError naming file and key when it is missing or malformed, DataError when it contradicts itself.
    """
    path = folder / MANIFEST_NAME
    data = read_json_object(path, "a manifest", largest=_LARGEST_FILE, advice=_ADVICE)
    manifest = from_mapping(Manifest, data, str(path))
    if problem := _contradiction(manifest):
        raise DataError(f"{path}: {problem}; build the data again")
    return manifest


def manifest_digest(folder: Path) -> str:
    """sha256 of manifest.json, which binds a checkpoint to its data. Raises InputError when it cannot be read."""
    return file_sha256(folder / MANIFEST_NAME)


def _contradiction(manifest: Manifest) -> str | None:
    if manifest.format != _FORMAT:
        return f"format = {manifest.format}: this version of conform reads format {_FORMAT}"
    if manifest.dtype not in DTYPES:
        return f"dtype = {manifest.dtype[:80]!r}: expected one of {', '.join(DTYPES)}"
    if not 0 < manifest.vocab <= min(256 ** DTYPES[manifest.dtype], _LARGEST_VOCAB):
        return f"vocab = {manifest.vocab}: does not fit into {manifest.dtype}, or is larger than any tokenizer"
    if max(manifest.bos_id, manifest.eos_id) >= manifest.vocab:
        return f"bos_id = {manifest.bos_id}, eos_id = {manifest.eos_id}: expected ids below vocab = {manifest.vocab}"
    for name in SPLITS:
        split = manifest.split(name)
        for number, shard in enumerate(split.shards):
            if not _SHARD_NAME.fullmatch(shard.name) or shard.name != f"{name}-{number:05d}.bin":
                return f"{name}.shards[{number}].name = {shard.name[:80]!r}: expected {name}-{number:05d}.bin"
            if not shard.tokens:
                return f"{name}.shards[{number}].tokens = 0: expected at least one token"
        if split.tokens != sum(shard.tokens for shard in split.shards) or not split.tokens:
            return f"{name}.tokens = {split.tokens}: expected the positive sum of its shards"
        if not 0 < split.documents <= min(split.bytes, split.tokens):
            counts = f"documents = {split.documents}, bytes = {split.bytes}, tokens = {split.tokens}"
            return f"{name}: {counts}: expected one or more documents, none of them empty"
    return None
