"""Tokenizer: the ids that a prompt must become, from SentencePiece itself, and the text that ids must become."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conform.contract.spec import TokenizerSpec
from conform.core.errors import CheckpointError
from conform.core.gguf.read import GGUFFile
from conform.core.tokenizer.tokenizer import read_tokenizer

__all__ = ["Pieces", "PromptTokenizer", "bos_ids", "open_tokenizer", "pieces_as_text", "printable_pieces"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Values of tokenizer.ggml.token_type.
_NORMAL = 1
_BYTE = 6
_FIRST_PIECES = 32
_SPREAD_PIECES = 300


class Pieces(Protocol):
    """What is used of SentencePieceProcessor."""

    def encode(self, text: str, *, out_type: type[int]) -> Sequence[int]:
        """The ids of the text."""
        ...

    def vocab_size(self) -> int:
        """The number of pieces."""
        ...


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """SentencePiece, with BOS in front where the contract says so."""

    processor: Pieces
    bos: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of pieces."""
        return self.processor.vocab_size()

    def ids(self, text: str) -> tuple[int, ...]:
        """What a runtime must make of the prompt."""
        return (*self.bos, *self.continuation(text))

    def continuation(self, text: str) -> tuple[int, ...]:
        """The ids of the text alone."""
        return tuple(self.processor.encode(text, out_type=int))


def open_tokenizer(path: Path, spec: TokenizerSpec | None) -> PromptTokenizer:
    """The SentencePiece model of that file; without a contract its own BOS is used.

    Raises InputError when the file cannot be read, CheckpointError when it is not such a model.
    """
    from sentencepiece import SentencePieceProcessor

    content = read_tokenizer(path)
    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(content)
    except (RuntimeError, UnicodeDecodeError) as error:  # it may quote what is not UTF-8
        raise CheckpointError(f"{path}: not a SentencePiece model: {str(error)[:200]!r}") from error
    bos = processor.bos_id() if spec is None else (spec.bos_id if spec.add_bos else -1)
    return PromptTokenizer(processor, (bos,) if bos >= 0 else ())


def bos_ids(file: GGUFFile) -> tuple[int, ...]:
    """What an empty prompt becomes, according to the file's own keys."""
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    if file.metadata.get("tokenizer.ggml.add_bos_token", True) is True and isinstance(bos, int) and bos >= 0:
        return (bos,)
    return ()


def pieces_as_text(file: GGUFFile, ids: Sequence[int], *, raw_bytes: bool) -> bytes:
    """What a runtime prints for these ids: byte pieces as their byte, or literally as `<0x0A>`."""
    pieces = file.metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(pieces, list):
        return b""
    return b"".join(_piece_as_text(str(pieces[token]), raw_bytes) for token in ids)


def printable_pieces(file: GGUFFile) -> tuple[int, ...]:
    """Ids of normal and byte pieces: the first 32, and some 300 from the whole vocabulary."""
    types = file.metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list):
        return ()
    usable = [token for token, kind in enumerate(types) if kind in {_NORMAL, _BYTE}]
    stride = max(len(usable) // _SPREAD_PIECES, 1)
    return tuple(usable[:_FIRST_PIECES] + usable[_FIRST_PIECES::stride])


def _piece_as_text(piece: str, raw_bytes: bool) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    if match and raw_bytes:
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode("utf-8", "surrogateescape")
