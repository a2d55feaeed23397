"""SentencePiece model: its file, read by a bounded parser of its protobuf; nothing is imported for it.

ModelProto        1: repeated SentencePiece   2: TrainerSpec   3: NormalizerSpec
SentencePiece     1: piece   2: float score   3: type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte)
TrainerSpec       3: model_type (1 unigram, 2 bpe, 3 word, 4 char)   24: treat_whitespace_as_suffix   35: byte_fallback
                  40..43: unk, bos, eos, pad id
NormalizerSpec    1: name   2: precompiled_charsmap   3: add_dummy_prefix   4: remove_extra_whitespaces
                  5: escape_whitespaces
"""

import hashlib
import math
import struct
from collections.abc import Iterator
from typing import TypeAlias

from conform.core.tokenizer.vocabulary import PIECE_TYPES, Vocabulary

__all__ = ["parse_sentencepiece", "with_dummy_prefix"]

_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_MOST_PIECES = 1 << 22

_Wire: TypeAlias = int | bytes


def parse_sentencepiece(content: bytes) -> Vocabulary:
    """The vocabulary that these bytes hold. Raises ValueError saying why they are not a SentencePiece model."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, _Wire] = {}
    normalizer: dict[int, _Wire] = {}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(_message(value)))
        elif number == 2:
            trainer |= dict(_fields(_message(value)))
        elif number == 3:
            normalizer |= dict(_fields(_message(value)))
        if len(pieces) > _MOST_PIECES:
            raise ValueError(f"more than {_MOST_PIECES} pieces")
    if not pieces or not trainer:
        raise ValueError("it holds no pieces or no trainer specification")
    ids = [_id(trainer.get(number, default)) for number, default in ((40, 0), (41, 1), (42, 2), (43, -1))]
    if any(not -1 <= number < len(pieces) for number in ids):
        raise ValueError(f"special ids {ids} with {len(pieces)} pieces")
    texts, scores, types = zip(*pieces, strict=True)
    return Vocabulary(
        pieces=texts,
        scores=scores,
        types=types,
        model=_MODEL_TYPES.get(_id(trainer.get(3, 1)), "unknown"),
        unk_id=ids[0],
        bos_id=ids[1],
        eos_id=ids[2],
        pad_id=ids[3],
        byte_fallback=bool(trainer.get(35, 0)),
        normalization=_message(normalizer.get(1, b"")).decode(),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
        digest=hashlib.sha256(content).hexdigest(),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        rewrites_characters=bool(normalizer.get(2, b"")),
    )


def with_dummy_prefix(content: bytes, wanted: bool) -> bytes:
    """The same model with or without a dummy prefix: of a field that occurs twice, the later one counts."""
    normalizer = bytes([3 << 3, wanted])
    return content + bytes([3 << 3 | 2, len(normalizer)]) + normalizer


def _piece(message: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(message))
    kind = _id(fields.get(3, 1))
    if kind not in PIECE_TYPES:
        raise ValueError(f"unknown type {kind} of a piece")
    score = struct.unpack("<f", _message(fields.get(2, bytes(4))).ljust(4, b"\0")[:4])[0]
    if not math.isfinite(score):
        raise ValueError("the score of a piece is not a finite number")
    return _message(fields.get(1, b"")).decode(), score, kind


def _message(value: _Wire) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message was expected")
    return value


def _id(value: _Wire) -> int:
    if not isinstance(value, int):
        raise ValueError("a message where a number was expected")
    # Negative numbers are written as 64-bit two's complement.
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(content: bytes) -> Iterator[tuple[int, _Wire]]:
    """Field number and raw value of each field of a protobuf message; a later value replaces an earlier one."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        wire_type = tag & 7
        value: _Wire
        if wire_type == 0:
            value, position = _varint(content, position)
        else:
            if wire_type == 2:
                length, position = _varint(content, position)
            elif wire_type in (1, 5):
                length = 8 if wire_type == 1 else 4
            else:
                raise ValueError(f"wire type {wire_type} at byte {position}")
            if length > len(content) - position:
                raise ValueError(f"truncated at byte {position}")
            value, position = (content[position : position + length], position + length)
        yield tag >> 3, value


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError(f"truncated at byte {position}")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), position
    raise ValueError(f"a number of more than ten bytes at byte {position}")
