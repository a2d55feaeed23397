"""Manifest: what a folder of token shards holds, hash by hash. It is written last, so a folder with one is complete."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    "unigram_perplexity",
]

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.model"
DTYPES: Mapping[str, int] = {"uint16": 2, "uint32": 4}
"""Token ids on disk, little-endian, and their bytes per token."""

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

_FORMAT = 1
_LARGEST_FILE = 1 << 28  # a million sources need 150 MB; anything larger would only serve to exhaust memory
_LARGEST_COUNT = 2**62
_LARGEST_VOCAB = 1 << 22  # as of a SentencePiece model; counting tokens takes eight bytes for each
_LARGEST_LOSS = 64.0  # nats per token: more than the logarithm of any count of tokens
_SHARD_NAME = re.compile(r"(train|held_out)-\d{5,9}\.bin")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of `tokens` little-endian ids; `sha256` is of its bytes."""

    name: str
    tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """One side of the data: the concatenation of its shards is one stream of documents, `bytes` their UTF-8 size."""

    documents: int
    bytes: int
    tokens: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A file that the tokens came from; its name holds no absolute path."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides sources and tokenizer that decides the bytes of the shards."""

    held_out: float
    shard_tokens: int
    max_chars: int
    text_key: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished build. Every document is `bos_id`, its ids, `eos_id`; it may continue in the next shard.

    `unigram_loss` is the held-out split's cross-entropy in nats per token under the token frequencies of the train
    split, one added to each count. `skipped` counts the documents left out, by reason.
    """

    format: int
    dtype: str
    vocab: int
    bos_id: int
    eos_id: int
    tokenizer_sha256: str
    tokenizer_semantic_digest: str
    train: Split
    held_out: Split
    unigram_loss: float
    recipe: Recipe
    skipped: dict[str, int]
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

    Raises DataError naming file and key when it is missing, malformed or contradicts itself.
    """
    data, path = _load(folder), folder / MANIFEST_NAME
    try:
        manifest: Manifest = _parse(Manifest, data, "")
        if problem := _contradiction(manifest):
            raise _MalformedError(problem)
    except _MalformedError as error:
        raise DataError(f"{path}: {error}; build the data again") from error
    return manifest


def manifest_digest(folder: Path) -> str:
    """sha256 of manifest.json, which binds a checkpoint to its data. Raises DataError when it cannot be read."""
    return hashlib.sha256(_bytes(folder)).hexdigest()


def unigram_perplexity(folder: Path) -> float:
    """`Manifest.unigram_perplexity` of the data in that folder."""
    return read_manifest(folder).unigram_perplexity


def _bytes(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path}: {path.stat().st_size} bytes is no manifest; expected at most {_LARGEST_FILE}")
        return path.read_bytes()
    except OSError as error:
        hint = "build the data with `conform data build`, or let an interrupted build finish"
        raise DataError(f"{path}: cannot be read ({error.strerror}); {hint}") from error


def _load(folder: Path) -> object:
    try:
        return json.loads(_bytes(folder))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / MANIFEST_NAME}: not JSON: {str(error)[:80]}; build the data again") from error


class _MalformedError(Exception):
    """What is wrong with a manifest."""


def _parse(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, value, key)
    if get_origin(kind) is tuple:
        items = _expect(list, value, key)
        return tuple(_parse(get_args(kind)[0], item, f"{key}[{number}]") for number, item in enumerate(items))
    if get_origin(kind) is dict:
        return {name: _parse(int, count, f"{key}.{name}") for name, count in _expect(dict, value, key).items()}
    return _expect(kind, value, key)


def _parse_fields(kind: Any, value: Any, key: str) -> Any:
    hints = get_type_hints(kind)
    if _expect(dict, value, key).keys() != hints.keys():
        odd = ", ".join(sorted(str(name)[:40] for name in value.keys() ^ hints.keys()))
        raise _MalformedError(f"{key or 'manifest'}: missing or unknown keys: {odd}")
    return kind(**{name: _parse(hint, value[name], f"{key}.{name}".lstrip(".")) for name, hint in hints.items()})


def _expect(kind: type, value: Any, key: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise _MalformedError(f"{key or 'manifest'}: expected {kind.__name__}, found {type(value).__name__}")
    if isinstance(value, int | float) and not 0 <= value <= _LARGEST_COUNT:
        raise _MalformedError(f"{key} = {str(value)[:40]}: expected a number from 0 to {_LARGEST_COUNT}")
    return value


def _contradiction(manifest: Manifest) -> str | None:
    if manifest.format != _FORMAT:
        return f"format = {manifest.format}: this version of conform reads format {_FORMAT}"
    if manifest.dtype not in DTYPES:
        return f"dtype = {manifest.dtype!r}: expected one of {', '.join(DTYPES)}"
    if not 0 < manifest.vocab <= min(256 ** DTYPES[manifest.dtype], _LARGEST_VOCAB):
        return f"vocab = {manifest.vocab}: does not fit into {manifest.dtype}, or is larger than any tokenizer"
    if max(manifest.bos_id, manifest.eos_id) >= manifest.vocab:
        return f"bos_id = {manifest.bos_id}, eos_id = {manifest.eos_id}: expected ids below vocab = {manifest.vocab}"
    if manifest.unigram_loss > _LARGEST_LOSS:
        return f"unigram_loss = {manifest.unigram_loss}: expected at most {_LARGEST_LOSS} nats per token"
    for name in SPLITS:
        split = manifest.split(name)
        for number, shard in enumerate(split.shards):
            if not _SHARD_NAME.fullmatch(shard.name) or shard.name != f"{name}-{number:05d}.bin":
                return f"{name}.shards[{number}].name = {shard.name[:80]!r}: expected {name}-{number:05d}.bin"
            if not _DIGEST.fullmatch(shard.sha256):
                return f"{name}.shards[{number}].sha256: expected 64 hexadecimal digits"
            if not shard.tokens:
                return f"{name}.shards[{number}].tokens = 0: expected at least one token"
        if split.tokens != sum(shard.tokens for shard in split.shards) or not split.tokens:
            return f"{name}.tokens = {split.tokens}: expected the positive sum of its shards"
        if not 0 < split.documents <= min(split.bytes, split.tokens):
            counts = f"documents = {split.documents}, bytes = {split.bytes}, tokens = {split.tokens}"
            return f"{name}: {counts}: expected one or more documents, none of them empty"
    return None
