"""Tokenizer: the ids that a prompt must become, from the tokenizer's own library, and the text that ids must become."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conform.contract.spec import TokenizerSpec
from conform.core.errors import CheckpointError
from conform.core.gguf.read import GGUFFile
from conform.core.tokenizer.bytelevel import parse_byte_level, piece_bytes
from conform.core.tokenizer.pre import adds_bos
from conform.core.tokenizer.sentencepiece_model import with_dummy_prefix
from conform.core.tokenizer.tokenizer import is_tokenizer_json, read_tokenizer
from conform.parity.questions.byte_level import definition_of_file, open_library, pre_tokenizer_of

__all__ = [
    "PromptTokenizer",
    "bos_ids",
    "eos_ids",
    "open_tokenizer",
    "pieces_as_text",
    "printable_pieces",
    "tokenizer_of_file",
]

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Values of tokenizer.ggml.token_type.
_NORMAL = 1
_BYTE = 6
_FIRST_PIECES = 32
_SPREAD_PIECES = 300


@dataclass(frozen=True, slots=True)
class PromptTokenizer:
    """What makes ids of text, the number of its pieces, and what the contract puts before and behind every text.

    `note` says where it comes from when that is not a tokenizer's own file.
    """

    encode: Callable[[str], Sequence[int]]
    size: int
    bos: tuple[int, ...]
    eos: tuple[int, ...] = ()
    note: str = ""

    def ids(self, text: str) -> tuple[int, ...]:
        """What a runtime must make of the prompt."""
        return (*self.bos, *self.continuation(text), *self.eos)

    def continuation(self, text: str) -> tuple[int, ...]:
        """The ids of the text alone."""
        return tuple(self.encode(text))


def open_tokenizer(path: Path, spec: TokenizerSpec | None) -> PromptTokenizer:
    """The SentencePiece model or tokenizer.json of that file; without a contract its own BOS and EOS are used.

    Raises InputError when the file cannot be read, CheckpointError when it is neither.
    """
    content = read_tokenizer(path)
    if is_tokenizer_json(content):
        return _byte_level(content, path, spec)
    from sentencepiece import SentencePieceProcessor

    if spec is not None:  # the settings beside a model may say otherwise than the model itself
        content = with_dummy_prefix(content, spec.add_dummy_prefix)
    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(
            content if spec is None else with_dummy_prefix(content, spec.add_dummy_prefix)
        )
    except (RuntimeError, UnicodeDecodeError) as error:  # it may quote what is not UTF-8
        raise CheckpointError(f"{path}: not a SentencePiece model: {str(error)[:200]!r}") from error
    bos, eos = (processor.bos_id(), -1) if spec is None else _stated(spec)
    return PromptTokenizer(processor.encode, processor.vocab_size(), _known(bos), _known(eos))


def tokenizer_of_file(file: GGUFFile) -> PromptTokenizer | None:
    """The byte-level BPE in the keys of a GGUF file; None for a file with another tokenizer or pre-tokenizer.

    Raises InputError when the keys contradict each other.
    """
    if (pre := pre_tokenizer_of(file.metadata)) is None:
        return None
    pieces = open_library(definition_of_file(file, pre), str(file.path))
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list), "the definition was made of it"
    note = "ids by the file's own tokens and merges, which nothing else was compared with"
    return PromptTokenizer(pieces.encode, len(tokens), bos_ids(file), eos_ids(file), note)


def eos_ids(file: GGUFFile) -> tuple[int, ...]:
    """What stands behind every prompt, according to the file's own keys."""
    eos = file.metadata.get("tokenizer.ggml.eos_token_id")
    wanted = file.metadata.get("tokenizer.ggml.add_eos_token", False) is True
    return (eos,) if wanted and isinstance(eos, int) and eos >= 0 else ()


def bos_ids(file: GGUFFile) -> tuple[int, ...]:
    """What an empty prompt becomes, according to the file's own keys."""
    bos = file.metadata.get("tokenizer.ggml.bos_token_id")
    wanted = file.metadata.get("tokenizer.ggml.add_bos_token", adds_bos(file.metadata)) is True
    return (bos,) if wanted and isinstance(bos, int) and bos >= 0 else ()


def pieces_as_text(file: GGUFFile, ids: Sequence[int], *, raw_bytes: bool) -> bytes:
    """What a runtime prints for these normal pieces: byte pieces as their byte, or literally as `<0x0A>`."""
    pieces = file.metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(pieces, list):
        return b""
    if file.metadata.get("tokenizer.ggml.model") == "gpt2":
        return b"".join(_letters_as_bytes(str(pieces[token])) for token in ids)
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


def _letters_as_bytes(piece: str) -> bytes:
    try:
        return piece_bytes(piece)
    except KeyError:  # no byte is written so; the file rung reports it, or a runtime prints it as it stands
        return piece.encode("utf-8", "surrogateescape")


def _byte_level(content: bytes, path: Path, spec: TokenizerSpec | None) -> PromptTokenizer:
    vocabulary = parse_byte_level(content, path)
    pieces = open_library(content.decode(), str(path))
    bos, eos = (vocabulary.bos_id, vocabulary.eos_id) if spec is None else _stated(spec)
    return PromptTokenizer(pieces.encode, len(vocabulary.pieces), _known(bos), _known(eos))


def _stated(spec: TokenizerSpec) -> tuple[int, int]:
    return spec.bos_id if spec.add_bos else -1, spec.eos_id if spec.add_eos else -1


def _known(token: int) -> tuple[int, ...]:
    return (token,) if token >= 0 else ()
