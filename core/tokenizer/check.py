"""Tokenizer check: what in a SentencePiece model keeps a runtime that merges by score from agreeing with it.

Export, verification and `conform tokenizer check` ask the same. What differs is only what may be as a contract says it:
without one, everything must be as conform's own recipe makes it.
"""

from collections.abc import Callable, Iterator, Sequence

from conform.contract.finding import Finding
from conform.contract.spec import TokenizerSpec
from conform.core.tokenizer.vocabulary import PIECE_TYPES, Vocabulary

__all__ = ["check_model"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = sorted(PIECE_TYPES)
_BYTE_PIECES = frozenset(f"<0x{value:02X}>" for value in range(256))
_OTHER = "use a tokenizer without it, or train one with `conform tokenizer train`"


def check_model(
    vocabulary: Vocabulary, spec: TokenizerSpec | None = None, completed: Vocabulary | None = None
) -> list[Finding]:
    """Everything in the model, as it was trained, by which other ids than SentencePiece's would come out.

    A contract's `spec` decides about the dummy prefix, BOS, padding and control pieces. Special pieces are looked for
    in the vocabulary that settings beside the model have `completed`, if it is given.
    """
    return [
        *_check_facts(vocabulary, spec),
        *_check_special_ids(completed or vocabulary, spec),
        *_check_kinds(vocabulary, spec),
        *_check_bytes(vocabulary),
        *_check_spelling(vocabulary),
    ]


def _check_facts(vocabulary: Vocabulary, spec: TokenizerSpec | None) -> Iterator[Finding]:
    facts: list[tuple[str, object, object]] = [
        ("model_type", "bpe", vocabulary.model),
        ("byte_fallback", True, vocabulary.byte_fallback),
        ("normalization", "identity", vocabulary.normalization),
        ("precompiled_charsmap", "empty", "a table" if vocabulary.rewrites_characters else "empty"),
        ("remove_extra_whitespaces", False, vocabulary.remove_extra_whitespaces),
        ("escape_whitespaces", True, vocabulary.escape_whitespaces),
        ("treat_whitespace_as_suffix", False, vocabulary.whitespace_as_suffix),
    ]
    if spec is None:
        facts.append(("add_dummy_prefix", True, vocabulary.add_dummy_prefix))
    for key, expected, found in facts:
        if expected != found:
            hint = f"a runtime that merges by score does nothing else; {_OTHER}"
            yield Finding("error", f"tokenizer.{key}", str(expected), str(found), hint)


def _check_special_ids(vocabulary: Vocabulary, spec: TokenizerSpec | None) -> Iterator[Finding]:
    special = {"unk": (vocabulary.unk_id, _UNKNOWN), "eos": (vocabulary.eos_id, _CONTROL)}
    if spec is None or spec.add_bos or spec.bos_id >= 0:
        special["bos"] = (vocabulary.bos_id, _CONTROL)
    for name, (number, kind) in special.items():
        if number < 0 or vocabulary.types[number] != kind:
            found = "none" if number < 0 else PIECE_TYPES[vocabulary.types[number]]
            yield Finding("error", f"tokenizer.{name}_id", f"the id of a piece of type {PIECE_TYPES[kind]}", found)


def _check_kinds(vocabulary: Vocabulary, spec: TokenizerSpec | None) -> Iterator[Finding]:
    """Pieces that a prompt's text could become, or could not, otherwise than by merging; one finding for each kind."""
    known = {vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id} | ({spec.pad_id} if spec else set())
    reasons = {
        _UNKNOWN: "a piece for unknown text besides unk",
        _CONTROL: "a prompt's text never becomes one" if spec else _OTHER,
        _USER_DEFINED: "SentencePiece takes it whole before it merges, and puts no space after it as runtimes do",
        _UNUSED: "SentencePiece takes it apart again after it merged it, a runtime does not",
    }
    for kind, reason in reasons.items():
        numbers = [n for n, found in enumerate(vocabulary.types) if found == kind and n not in known]
        if numbers:
            severe = kind != _CONTROL or spec is None
            where = _pieces(vocabulary, numbers)
            found = f"type {PIECE_TYPES[kind]}"
            yield Finding("error" if severe else "warning", where, "a normal or byte piece", found, reason)


def _check_bytes(vocabulary: Vocabulary) -> Iterator[Finding]:
    found = [piece for piece, kind in zip(vocabulary.pieces, vocabulary.types, strict=True) if kind == _BYTE]
    if len(found) != 256:
        yield Finding("error", "tokenizer byte pieces", "256", str(len(found)), _OTHER)
    elif wrong := sorted(set(_BYTE_PIECES).symmetric_difference(found)):
        yield Finding("error", "tokenizer byte pieces", "<0x00> to <0xFF>, each once", f"{wrong[0]!r:.40}", _OTHER)


def _check_spelling(vocabulary: Vocabulary) -> Iterator[Finding]:
    """Special pieces that merging could spell. SentencePiece never does; a runtime that reads no piece types would."""
    mergeable = {piece for piece, kind in zip(vocabulary.pieces, vocabulary.types, strict=True) if kind == _NORMAL}
    spelled = {
        number: parts
        for number, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True))
        if kind != _NORMAL and (parts := _spelled(piece, mergeable.__contains__))
    }
    special = [number for number in (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id) if number in spelled]
    others = [number for number in spelled if number not in special]
    for numbers in (*([number] for number in special), others):
        if numbers:
            first, second = spelled[numbers[0]]
            hint = "a runtime that ignores piece types turns this text in a prompt into the special token"
            where = _pieces(vocabulary, numbers)
            yield Finding("warning", where, "not spelled by two pieces", f"{first!r} + {second!r}", hint)


def _spelled(piece: str, mergeable: Callable[[str], bool]) -> tuple[str, str] | None:
    """The two pieces or characters that merging would join to this one."""
    for cut in range(1, len(piece)):
        parts = (piece[:cut], piece[cut:])
        if all(len(part) == 1 or mergeable(part) for part in parts):
            return parts
    return None


def _pieces(vocabulary: Vocabulary, numbers: Sequence[int]) -> str:
    """Some pieces as findings name them: the first by its text, the others by their number."""
    first = f"tokenizer piece {numbers[0]} {vocabulary.pieces[numbers[0]]!r:.80}"
    return first if len(numbers) == 1 else f"{first} and {len(numbers) - 1} more, up to {numbers[-1]}"
