"""Model proto: what a SentencePiece model file says, read without the library that wrote it.

The file is a protocol buffer; this reads the fields that decide how text becomes ids, in the format's own words
(sentencepiece_model.proto): ModelProto.pieces = 1, trainer_spec = 2, normalizer_spec = 3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.trainer.errors import TokenizerError

__all__ = [
    "BYTE",
    "CONTROL",
    "NORMAL",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "ModelProto",
    "Piece",
    "parse_model",
    "read_model",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_LARGEST_FILE = 1 << 28
_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    type: int


@dataclass(frozen=True, slots=True)
class ModelProto:
    """The facts of a model file, with the format's defaults where the file is silent."""

    pieces: tuple[Piece, ...]
    algorithm: str
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    normalizer: str
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    suffix_whitespace: bool


def read_model(path: Path) -> ModelProto:
    """The model in that file. Raises TokenizerError when it cannot be read or is no SentencePiece model."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise TokenizerError(f"{path}: {path.stat().st_size} bytes is no tokenizer; at most {_LARGEST_FILE}")
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_model(content, str(path))


def parse_model(content: bytes, where: str) -> ModelProto:
    """The model in those bytes; `where` names them in errors. Raises TokenizerError."""
    try:
        model = _fields(content)
        trainer, normalizer = (_fields(_last_bytes(model, number)) for number in (2, 3))
        pieces = tuple(_piece(_fields(item)) for item in model.get(1, []) if isinstance(item, bytes))
    except (ValueError, struct.error) as error:
        raise TokenizerError(f"{where}: not a SentencePiece model ({error}); expected a tokenizer.model") from error
    if not pieces:
        raise TokenizerError(f"{where}: not a SentencePiece model (it has no pieces); expected a tokenizer.model")
    return ModelProto(
        pieces=pieces,
        algorithm=_ALGORITHMS.get(_last_int(trainer, 3, 1), "unknown"),
        byte_fallback=bool(_last_int(trainer, 35, 0)),
        unk_id=_signed(_last_int(trainer, 40, 0)),
        bos_id=_signed(_last_int(trainer, 41, 1)),
        eos_id=_signed(_last_int(trainer, 42, 2)),
        pad_id=_signed(_last_int(trainer, 43, -1)),
        normalizer=_last_bytes(normalizer, 1).decode(errors="replace"),
        charsmap=_last_bytes(normalizer, 2),
        add_dummy_prefix=bool(_last_int(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_last_int(normalizer, 4, 1)),
        escape_whitespaces=bool(_last_int(normalizer, 5, 1)),
        suffix_whitespace=bool(_last_int(trainer, 24, 0)),
    )


def _piece(fields: _Fields) -> Piece:
    score = fields.get(2, [0])[-1]
    if isinstance(score, bytes):
        raise ValueError("a score is no number")
    (value,) = struct.unpack("<f", struct.pack("<I", score))
    return Piece(_last_bytes(fields, 1).decode(), value, _last_int(fields, 3, NORMAL))


def _fields(content: bytes) -> _Fields:
    fields: _Fields = {}
    for number, value in _walk(content):
        fields.setdefault(number, []).append(value)
    return fields


def _walk(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, place = _varint(content, place)
            yield tag >> 3, value
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
            chunk, place = _take(content, place, size)
            yield tag >> 3, int.from_bytes(chunk, "little")
        elif wire_type == _BYTES:
            size, place = _varint(content, place)
            chunk, place = _take(content, place, size)
            yield tag >> 3, chunk
        else:
            raise ValueError(f"wire type {wire_type} at byte {place}")


def _take(content: bytes, place: int, size: int) -> tuple[bytes, int]:
    if size > len(content) - place:
        raise ValueError(f"cut off at byte {len(content)}")
    return content[place : place + size], place + size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError(f"cut off at byte {place}")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"overlong number at byte {place}")


def _last_bytes(fields: _Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no message")
    return value


def _last_int(fields: _Fields, number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if isinstance(value, bytes):
        raise ValueError(f"field {number} is no number")
    return value


def _signed(value: int) -> int:
    """Negative int32 travel as 64-bit two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value
