"""Vocabulary: a SentencePiece model file, read by a bounded parser of its protobuf; nothing is imported for it.

ModelProto        1: repeated SentencePiece   2: TrainerSpec   3: NormalizerSpec
SentencePiece     1: piece   2: float score   3: type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte)
TrainerSpec       3: model_type (1 unigram, 2 bpe, 3 word, 4 char)   35: byte_fallback   40..43: unk, bos, eos, pad id
NormalizerSpec    1: name   3: add_dummy_prefix   4: remove_extra_whitespaces   5: escape_whitespaces
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from conform.contract.bounded import read_bounded
from conform.contract.finding import Finding
from conform.contract.spec import Contract
from conform.core.errors import CheckpointError

__all__ = ["PIECE_TYPES", "Vocabulary", "check_vocabulary", "read_tokenizer", "read_vocabulary"]

PIECE_TYPES: Mapping[int, str] = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}

_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_LARGEST_FILE = 256 << 20
_MOST_PIECES = 1 << 22

_Wire: TypeAlias = int | bytes


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id, with scores (float32 values) and types as GGUF numbers them, and how text is prepared.

    An id of -1 means that there is no such piece; `digest` is the sha256 of the file.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    model: str
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    byte_fallback: bool
    normalization: str
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    digest: str


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer's file. Raises InputError when it cannot be read or is larger than any tokenizer."""
    return read_bounded(path, _LARGEST_FILE, "a tokenizer")


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece model.

    Raises InputError naming the file when it cannot be read, is larger than any tokenizer, or is not such a model.
    """
    try:
        return _parse(read_tokenizer(path))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error


def check_vocabulary(vocabulary: Vocabulary, contract: Contract) -> list[Finding]:
    """Everything in which a tokenizer is not the one that the contract describes."""
    spec = contract.tokenizer
    pairs: list[tuple[str, object, object]] = [
        ("model", spec.model, vocabulary.model),
        ("byte_fallback", spec.byte_fallback, vocabulary.byte_fallback),
        ("normalization", spec.normalization, vocabulary.normalization),
        ("add_dummy_prefix", spec.add_dummy_prefix, vocabulary.add_dummy_prefix),
        ("remove_extra_whitespaces", spec.remove_extra_whitespaces, vocabulary.remove_extra_whitespaces),
        ("unk_id", spec.unk_id, vocabulary.unk_id),
        ("bos_id", spec.bos_id, vocabulary.bos_id),
        ("eos_id", spec.eos_id, vocabulary.eos_id),
        ("pad_id", spec.pad_id, vocabulary.pad_id),
    ]
    findings = [
        Finding("error", f"tokenizer.{key}", str(expected), str(found))
        for key, expected, found in pairs
        if expected != found
    ]
    if spec.sha256 and spec.sha256 != vocabulary.digest:
        findings.append(Finding("error", "tokenizer.sha256", spec.sha256, vocabulary.digest))
    return [*_check_size(vocabulary, contract), *findings, *_check_pieces(vocabulary)]


def _check_size(vocabulary: Vocabulary, contract: Contract) -> Iterator[Finding]:
    count = len(vocabulary.pieces)
    if count != contract.model.vocab:
        hint = (
            "train the tokenizer with that vocabulary size; a runtime cannot know of embedding rows that have no piece"
        )
        yield Finding("error", "tokenizer", f"{contract.model.vocab} pieces", f"{count} pieces", hint)


def _check_pieces(vocabulary: Vocabulary) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for number, piece in enumerate(vocabulary.pieces):
        if not piece:
            yield Finding("error", f"tokenizer piece {number}", "a text", "an empty piece")
        elif piece in first:
            yield Finding("error", f"tokenizer piece {number}", "a text of its own", f"that of piece {first[piece]}")
        first.setdefault(piece, number)


def _parse(content: bytes) -> Vocabulary:
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
    )


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
