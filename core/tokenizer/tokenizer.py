"""Tokenizer: the file beside a checkpoint that says how text becomes ids, read within bounds."""

from pathlib import Path

from conform.contract.bounded import read_bounded
from conform.core.errors import CheckpointError
from conform.core.files.sight import HEAD, mistaken
from conform.core.tokenizer.sentencepiece_model import parse_sentencepiece
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["read_tokenizer", "read_vocabulary"]

_LARGEST_FILE = 256 << 20


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer's file. Raises InputError when it cannot be read or is larger than any tokenizer."""
    return read_bounded(path, _LARGEST_FILE, "a tokenizer")


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model.

    Raises InputError naming the file when it cannot be read, is larger than any tokenizer, or is not such a model.
    """
    content = read_tokenizer(path)
    try:
        return parse_sentencepiece(content)
    except (ValueError, UnicodeDecodeError) as error:
        advice = "give the SentencePiece model, or the tokenizer.json, of this checkpoint"
        sentence = mistaken(content[:HEAD], "a SentencePiece model", advice)
        raise CheckpointError(f"{path}: {sentence or f'not a SentencePiece model: {error}'}") from error
