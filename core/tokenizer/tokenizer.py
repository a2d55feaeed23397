"""Tokenizer: the file beside a checkpoint that says how text becomes ids, read within bounds."""

from pathlib import Path

from conform.contract.bounded import read_bounded
from conform.core.errors import CheckpointError
from conform.core.tokenizer.bytelevel import parse_byte_level
from conform.core.tokenizer.sentencepiece_model import parse_sentencepiece
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["is_tokenizer_json", "read_tokenizer", "read_vocabulary"]

_LARGEST_FILE = 256 << 20


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer's file. Raises InputError when it cannot be read or is larger than any tokenizer."""
    return read_bounded(path, _LARGEST_FILE, "a tokenizer")


def is_tokenizer_json(content: bytes) -> bool:
    """True for what can only be a tokenizer.json, not a SentencePiece model."""
    return content[:64].lstrip().startswith(b"{")


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model or a tokenizer.json, whatever the file is called.

    Raises InputError naming the file when it cannot be read, is larger than any tokenizer, or is neither.
    """
    content = read_tokenizer(path)
    if is_tokenizer_json(content):
        return parse_byte_level(content, path)
    try:
        return parse_sentencepiece(content)
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
