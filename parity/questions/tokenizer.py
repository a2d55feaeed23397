"""Tokenizer: the ids that a prompt must become, from SentencePiece itself, and the text that ids must become."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.contract.spec import TokenizerSpec
from conform.core.checkpoint.vocabulary import read_tokenizer
from conform.core.errors import CheckpointError
from conform.core.gguf.read import GGUFFile

__all__ = ["PromptTokenizer", "bos_ids", "open_tokenizer", "pieces_as_text"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_NORMAL = 1
_BYTE = 6


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """SentencePiece, with BOS in front where the contract says so."""

    processor: Any
    bos: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of pieces."""
        return int(self.processor.vocab_size())

    def ids(self, text: str) -> tuple[int, ...]:
        """What a runtime must make of the prompt."""
        return (*self.bos, *self.continuation(text))

    def continuation(self, text: str) -> tuple[int, ...]:
        """The ids of the text alone."""
        return tuple(self.processor.encode(text, out_type=int))


def open_tokenizer(path: Path, spec: TokenizerSpec | None) -> PromptTokenizer:
    """The SentencePiece model of that file; without a contract its own BOS is used.

    Raises InputError when it cannot be read, CheckpointError when it is no such model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(read_tokenizer(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
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


def _piece_as_text(piece: str, raw_bytes: bool) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    if match and raw_bytes:
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode("utf-8", "surrogateescape")
