"""Tokenizer: the files beside a checkpoint that say how text becomes ids, read within bounds."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.contract.bounded import read_bounded
from conform.contract.finding import Finding
from conform.contract.spec import Contract
from conform.core.errors import CheckpointError
from conform.core.files.sight import HEAD, mistaken
from conform.core.tokenizer.agreement import check_agreement, load_sentencepiece
from conform.core.tokenizer.bytelevel import parse_byte_level
from conform.core.tokenizer.check import check_model
from conform.core.tokenizer.completed import check_settings, completed
from conform.core.tokenizer.sentencepiece_model import parse_sentencepiece, with_dummy_prefix
from conform.core.tokenizer.settings import TokenizerSettings, read_settings, tokenizer_digest
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = [
    "Tokenizer",
    "find_tokenizer",
    "is_tokenizer_json",
    "read_model",
    "read_tokenizer",
    "read_vocabulary",
    "tokenizer_of",
]

_LARGEST_FILE = 256 << 20
_NAMES = ("tokenizer.model", "tokenizer.json")
_BYTE_LEVEL = "byte-level"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A checkpoint's tokenizer: the vocabulary with a piece for each embedding row, and what its files say against it.

    `findings` are about the files themselves; what `check_vocabulary` finds is not among them.
    """

    vocabulary: Vocabulary
    findings: tuple[Finding, ...]


def find_tokenizer(folder: Path) -> Path | None:
    """The file that holds the pieces: a SentencePiece model, else a tokenizer.json, or None."""
    return next((path for name in _NAMES if (path := folder / name).is_file()), None)


def tokenizer_of(path: Path, contract: Contract) -> Tokenizer:
    """The tokenizer in that file with the settings beside it, as a checkpoint of that contract means it.

    Raises InputError naming the file that cannot be read, or that demands what no contract can express.
    """
    model, settings = read_model(path)
    whole = completed(model, settings, contract.model.vocab)
    findings = [*check_settings(model, settings, contract)]
    if model.model != _BYTE_LEVEL:
        findings += check_model(model, contract.tokenizer, whole)
        findings += _check_agreement(path, model, whole.add_dummy_prefix)
    digest = tokenizer_digest(path)
    provenance = "" if digest == model.digest else digest
    return Tokenizer(dataclasses.replace(whole, provenance=provenance), tuple(findings))


def read_model(path: Path) -> tuple[Vocabulary, TokenizerSettings]:
    """The pieces in that file, and the settings beside it. Raises InputError for what no contract can express."""
    model = read_vocabulary(path)
    if model.model not in ("bpe", _BYTE_LEVEL):
        raise CheckpointError(
            f"{path}: a SentencePiece model of type {model.model}; a contract can express bpe only, because a runtime "
            "that merges by score gives other ids"
        )
    settings = read_settings(path.parent, with_pipeline=model.model != _BYTE_LEVEL)
    for fact, own in _surrounding(model):
        stated = getattr(settings, fact)
        if stated not in (None, own):
            raise CheckpointError(
                f"{path}: its post_processor says {fact} = {own!r:.80}, but {settings.origins[fact]} beside it says "
                f"{stated!r:.80}; correct the one that is wrong"
            )
    return model, settings


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer's file. Raises InputError when it cannot be read or is larger than any tokenizer."""
    return read_bounded(path, _LARGEST_FILE, "a tokenizer")


def is_tokenizer_json(content: bytes) -> bool:
    """True for what can only be a tokenizer.json, not a SentencePiece model."""
    return content[:64].lstrip().startswith(b"{")


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model, or of the byte-level BPE in a tokenizer.json, whatever it is called.

    Raises InputError naming the file when it cannot be read, is larger than any tokenizer, or is neither.
    """
    content = read_tokenizer(path)
    if is_tokenizer_json(content):
        return parse_byte_level(content, path)
    try:
        return parse_sentencepiece(content)
    except (ValueError, UnicodeDecodeError) as error:
        advice = "give the SentencePiece model, or the tokenizer.json, of this checkpoint"
        sentence = mistaken(content[:HEAD], "a SentencePiece model", advice)
        raise CheckpointError(f"{path}: {sentence or f'not a SentencePiece model: {error}'}") from error


def _surrounding(model: Vocabulary) -> Iterator[tuple[str, object]]:
    """What a tokenizer.json puts around a text, in the words of the settings; a SentencePiece model says nothing."""
    for role, added, number in (("bos", model.add_bos, model.bos_id), ("eos", model.add_eos, model.eos_id)):
        if added is not None:
            yield f"add_{role}", added
        if added:
            yield role, model.pieces[number]


def _check_agreement(path: Path, model: Vocabulary, dummy_prefix: bool) -> Iterator[Finding]:
    processor = load_sentencepiece(with_dummy_prefix(read_tokenizer(path), dummy_prefix), path)
    yield from check_agreement(model, processor, dummy_prefix)
