"""Vocabulary: the pieces of a tokenizer by id, and how text is prepared for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.contract.spec import Contract

__all__ = ["PIECE_TYPES", "Vocabulary", "check_vocabulary"]

PIECE_TYPES: Mapping[int, str] = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id, with scores (float32 values) and types as GGUF numbers them, and how text is prepared.

    An id of -1 means that there is no such piece; `digest` is the sha256 of the file. `merges` and `pre` belong to a
    byte-level BPE: pairs of pieces joined by a space, the first to be merged first, and its pre-tokenizer. A model with
    `whitespace_as_suffix` puts the dummy prefix behind a text, one that `rewrites_characters` holds a table for it.
    The settings beside the file say `add_bos`, `add_eos` (None where they do not) and `chat_template`; `provenance` is
    the digest of them and the file, "" without settings.
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
    merges: tuple[str, ...] = ()
    pre: str = ""
    whitespace_as_suffix: bool = False
    rewrites_characters: bool = False
    add_bos: bool | None = None
    add_eos: bool | None = None
    chat_template: str | None = None
    provenance: str = ""


def check_vocabulary(vocabulary: Vocabulary, contract: Contract) -> list[Finding]:
    """Everything in which a tokenizer is not the one that the contract describes."""
    spec = contract.tokenizer
    pairs: list[tuple[str, object, object]] = [
        ("model", spec.model, vocabulary.model),
        ("pre", spec.pre, vocabulary.pre),
        ("byte_fallback", spec.byte_fallback, vocabulary.byte_fallback),
        ("normalization", spec.normalization, vocabulary.normalization),
        ("add_dummy_prefix", spec.add_dummy_prefix, vocabulary.add_dummy_prefix),
        ("remove_extra_whitespaces", spec.remove_extra_whitespaces, vocabulary.remove_extra_whitespaces),
        ("unk_id", spec.unk_id, vocabulary.unk_id),
        ("bos_id", spec.bos_id, vocabulary.bos_id),
        ("eos_id", spec.eos_id, vocabulary.eos_id),
        ("pad_id", spec.pad_id, vocabulary.pad_id),
        ("add_bos", spec.add_bos, spec.add_bos if vocabulary.add_bos is None else vocabulary.add_bos),
        ("add_eos", spec.add_eos, spec.add_eos if vocabulary.add_eos is None else vocabulary.add_eos),
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
