"""Tokenizer check: whether a runtime that merges by score, without SentencePiece, will agree on the ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conform.contract.finding import Finding
from conform.contract.spec import Contract
from conform.core.tokenizer.tokenizer import read_tokenizer, read_vocabulary
from conform.core.tokenizer.vocabulary import PIECE_TYPES, Vocabulary, check_vocabulary
from conform.trainer.errors import TokenizerError
from conform.trainer.tokenizer.hostile_text import HOSTILE_TEXTS, RESERVED_TEXTS
from conform.trainer.tokenizer.recipe import find_tokenizer
from conform.trainer.tokenizer.report import lost_in_round_trip
from conform.trainer.tokenizer.score_merge import ScoreMerge

__all__ = ["check_tokenizer"]

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_RETRAIN = "train one with `conform tokenizer train`"


def check_tokenizer(path: Path, contract: Contract | None = None) -> list[Finding]:
    """Everything in the tokenizer that keeps a runtime from agreeing with it, or from fitting the contract.

    Raises InputError or TokenizerError when the file is not a SentencePiece model at all.
    """
    model = find_tokenizer(path)
    vocabulary = read_vocabulary(model)
    processor = _load(model)
    findings = [*_check_recipe(vocabulary), *_check_pieces(vocabulary), *_check_spelling(vocabulary)]
    findings += _check_agreement(vocabulary, processor)
    findings += _check_round_trip(processor)
    return findings + (check_vocabulary(vocabulary, contract) if contract else [])


def _load(model: Path) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=read_tokenizer(model))
    except (RuntimeError, UnicodeDecodeError) as error:  # it may quote what is not UTF-8
        raise TokenizerError(f"{model}: SentencePiece cannot load it: {str(error)[:200]!r}") from error


def _check_recipe(vocabulary: Vocabulary) -> Iterator[Finding]:
    facts: list[tuple[str, object, object]] = [
        ("model_type", "bpe", vocabulary.model),
        ("byte_fallback", True, vocabulary.byte_fallback),
        ("normalization", "identity", vocabulary.normalization),
        ("add_dummy_prefix", True, vocabulary.add_dummy_prefix),
        ("remove_extra_whitespaces", False, vocabulary.remove_extra_whitespaces),
        ("escape_whitespaces", True, vocabulary.escape_whitespaces),
    ]
    for key, expected, found in facts:
        if expected != found:
            yield Finding("error", f"tokenizer.{key}", str(expected), str(found), _RETRAIN)


def _check_pieces(vocabulary: Vocabulary) -> Iterator[Finding]:
    special = {"unk": (vocabulary.unk_id, _UNKNOWN), "bos": (vocabulary.bos_id, _CONTROL)}
    special["eos"] = (vocabulary.eos_id, _CONTROL)
    for name, (number, kind) in special.items():
        if number < 0 or vocabulary.types[number] != kind:
            found = "none" if number < 0 else PIECE_TYPES[vocabulary.types[number]]
            yield Finding("error", f"tokenizer.{name}_id", f"the id of a piece of type {PIECE_TYPES[kind]}", found)
    known = {number for number, _ in special.values()}
    for number, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True)):
        if kind not in (_NORMAL, _BYTE) and number not in known:
            where = f"tokenizer piece {number} {piece!r}"
            yield Finding("error", where, "a normal or byte piece", f"type {PIECE_TYPES[kind]}", _RETRAIN)
    if (count := vocabulary.types.count(_BYTE)) != 256:
        yield Finding("error", "tokenizer byte pieces", "256", str(count), _RETRAIN)


def _check_spelling(vocabulary: Vocabulary) -> Iterator[Finding]:
    """Special pieces that merging could spell. SentencePiece never does; a runtime that reads no piece types would."""
    mergeable = {piece for piece, kind in zip(vocabulary.pieces, vocabulary.types, strict=True) if kind == _NORMAL}
    for number, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True)):
        if kind == _NORMAL:
            continue
        for cut in range(1, len(piece)):
            parts = (piece[:cut], piece[cut:])
            if all(len(part) == 1 or part in mergeable for part in parts):
                where = f"tokenizer piece {number} {piece!r}"
                hint = "a runtime that ignores piece types turns this text in a prompt into the special token"
                yield Finding("warning", where, "not spelled by two pieces", f"{parts[0]!r} + {parts[1]!r}", hint)
                break


def _check_agreement(vocabulary: Vocabulary, processor: Any) -> Iterator[Finding]:
    merge = ScoreMerge(vocabulary)
    texts = (*HOSTILE_TEXTS, *RESERVED_TEXTS)
    differing = [text for text in texts if merge.encode(text) != processor.encode(text)]
    if differing:
        ids = [str(encode(differing[0])[:12]) for encode in (processor.encode, merge.encode)]
        hint = (
            f"{len(differing)} of {len(texts)} hostile texts differ; the runtime's tokens would not be SentencePiece's"
        )
        yield Finding("error", f"merging {differing[0][:40]!r}", ids[0], ids[1], hint)


def _check_round_trip(processor: Any) -> Iterator[Finding]:
    if lost := lost_in_round_trip(processor):
        found = repr(processor.decode(processor.encode(lost[0])))[:60]
        hint = f"{len(lost)} of {len(HOSTILE_TEXTS)} hostile texts are changed by encoding and decoding"
        yield Finding("error", "round trip", repr(lost[0])[:60], found, hint)
