"""Byte-level BPE: a `tokenizer.json` of the library `tokenizers`, as GGUF's tokenizer model gpt2 can express it.

added_tokens    pieces that are cut out of a text first: special ones (control) and others (user-defined)
normalizer      none: GGUF has no key for one
pre_tokenizer   cuts a text into words and writes their bytes in an alphabet of printable characters; `pre` names it
model           BPE: the pieces by id, and the pairs of pieces to be merged, the first to be merged first
post_processor  puts BOS before a text and EOS behind it, or nothing
decoder         the same alphabet backwards
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conform.contract.errors import InputError
from conform.contract.mapping import from_mapping, shown
from conform.core.errors import CheckpointError
from conform.core.files.json import parse_json_object
from conform.core.tokenizer.bytelevel_template import surrounding_ids
from conform.core.tokenizer.pre import name_pre_tokenizer
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["BYTE_ALPHABET", "parse_byte_level", "piece_bytes"]

_MOST_PIECES = 1 << 22
# Types of pieces, as GGUF numbers them.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def _alphabet() -> Mapping[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


BYTE_ALPHABET: Mapping[str, int] = MappingProxyType(_alphabet())
"""The byte that each character of a piece stands for: printable Latin-1 for itself, from U+0100 on the rest."""


@dataclass(frozen=True, slots=True)
class _AddedToken:
    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


@dataclass(frozen=True, slots=True)
class _Model:
    vocab: Any  # what it holds is checked in one go: field by field takes seconds for a real vocabulary
    merges: Any
    type: str = "BPE"
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    model: Mapping[str, Any]
    version: str = "1.0"
    truncation: Mapping[str, Any] | None = None
    padding: Mapping[str, Any] | None = None
    added_tokens: tuple[_AddedToken, ...] = ()
    normalizer: Mapping[str, Any] | None = None
    pre_tokenizer: Mapping[str, Any] | None = None
    post_processor: Mapping[str, Any] | None = None
    decoder: Mapping[str, Any] | None = None


def parse_byte_level(content: bytes, path: Path) -> Vocabulary:
    """The vocabulary in the content of a tokenizer.json; `path` names it in errors.

    BOS and EOS are what it puts before and behind a text, -1 where that is nothing; only the settings beside it know
    better. Raises InputError when it is malformed, and for everything that no GGUF file can express.
    """
    data = parse_json_object(content, path, "a tokenizer.json")
    file = from_mapping(_File, data, str(path))
    model = from_mapping(_Model, file.model, str(path), "model")
    vocab, merges = _ids(model.vocab, path), _merges(model.merges, path)
    try:
        for problem in _problems(file, model):
            raise ValueError(problem)
        pieces, types = _pieces(vocab, file.added_tokens)
        _check_merges(merges, vocab.keys())
        bos, eos = surrounding_ids(file.post_processor, len(pieces))
        pre = name_pre_tokenizer(file.pre_tokenizer or {}, model.ignore_merges)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a byte-level BPE that GGUF can express: {error}") from error
    return Vocabulary(
        pieces=pieces,
        scores=(),
        types=types,
        model="byte-level",
        unk_id=-1 if model.unk_token is None else vocab.get(model.unk_token, -1),
        bos_id=bos,
        eos_id=eos,
        pad_id=-1,
        byte_fallback=False,
        normalization="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        escape_whitespaces=False,
        digest=hashlib.sha256(content).hexdigest(),
        merges=merges,
        pre=pre,
        add_bos=bos >= 0,
        add_eos=eos >= 0,
    )


def piece_bytes(piece: str) -> bytes:
    """The bytes for which a normal piece stands. Raises KeyError naming a character that stands for none."""
    return bytes(BYTE_ALPHABET[character] for character in piece)


def _ids(vocab: Any, path: Path) -> Mapping[str, int]:
    if not isinstance(vocab, Mapping):
        raise InputError(f"{path}: model.vocab = {shown(vocab)}: expected a table of ids")
    for piece, number in vocab.items():
        if type(number) is not int:
            raise InputError(f"{path}: model.vocab.{piece:.40} = {shown(number)}: expected an id")
    return vocab


def _merges(merges: Any, path: Path) -> tuple[str, ...]:
    """Since 2024 merges are written as pairs, before as texts such as "Ġ t"."""
    if not isinstance(merges, list):
        raise InputError(f"{path}: model.merges = {shown(merges)}: expected a list")
    joined = [" ".join(merge) if _is_pair(merge) else merge for merge in merges]
    for number, merge in enumerate(joined):
        if not isinstance(merge, str):
            raise InputError(f"{path}: model.merges[{number}] = {shown(merge)}: expected a pair of pieces")
    return tuple(joined)


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)


def _problems(file: _File, model: _Model) -> Iterator[str]:
    """What makes it another kind of tokenizer, or one whose ids a runtime would not give."""
    if model.type != "BPE":
        yield f"its model is {model.type:.40}"
    if model.byte_fallback:
        yield "its model falls back to byte pieces, as SentencePiece does; conform reads that from tokenizer.model"
    if model.dropout:
        yield f"dropout = {model.dropout}, so that its ids are random"
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, affix):
            yield f"{affix} = {getattr(model, affix)!r:.40}"
    if model.unk_token is not None and not BYTE_ALPHABET.keys() <= model.vocab.keys():
        yield f"unk_token = {model.unk_token!r:.40}, and some bytes have no piece"
    if file.normalizer and file.normalizer != {"type": "Sequence", "normalizers": []}:
        yield f"it has a normalizer ({file.normalizer.get('type')!s:.40})"
    if (file.decoder or {}).get("type") != "ByteLevel":
        yield f"its decoder is {(file.decoder or {}).get('type')!s:.40}, expected ByteLevel"
    yield from _added_problems(file.added_tokens)


def _added_problems(added: Sequence[_AddedToken]) -> Iterator[str]:
    """Special tokens are not looked for in a prompt; the others must be cut out as GGUF's user-defined pieces are."""
    ordinary = [token for token in added if not token.special]
    for token in ordinary:
        for flag in ("single_word", "lstrip", "rstrip"):
            if getattr(token, flag):
                yield f"the added token {token.content!r:.40} has {flag} = true"
    if len({token.normalized for token in ordinary}) > 1:
        yield "some added tokens are normalized and some are not, so that it looks for them in two rounds"


def _pieces(vocab: Mapping[str, int], added: Sequence[_AddedToken]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Pieces and types by id; ids that nothing has are filled as llama.cpp's converter does."""
    by_id: dict[int, tuple[str, int]] = {}
    for piece, number in vocab.items():
        _place(by_id, number, piece, _NORMAL)
    for token in added:
        if vocab.get(token.content, token.id) != token.id:
            raise ValueError(f"the added token {token.content!r:.40} has the ids {vocab[token.content]} and {token.id}")
        if token.content in vocab:
            del by_id[token.id]
        _place(by_id, token.id, token.content, _CONTROL if token.special else _USER_DEFINED)
    if not by_id:
        raise ValueError("it holds no pieces")
    filled = [by_id.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(max(by_id) + 1)]
    for number, (piece, kind) in enumerate(filled):
        if not piece or (kind == _NORMAL and not BYTE_ALPHABET.keys() >= set(piece)):
            raise ValueError(f"piece {number} ({piece!r:.40}) is not written in the alphabet of bytes")
    return tuple(piece for piece, _ in filled), tuple(kind for _, kind in filled)


def _place(by_id: dict[int, tuple[str, int]], number: int, piece: str, kind: int) -> None:
    if not 0 <= number < _MOST_PIECES:
        raise ValueError(f"{piece!r:.40} has the id {number}, expected 0 to {_MOST_PIECES - 1}")
    if number in by_id:
        raise ValueError(f"{by_id[number][0]!r:.40} and {piece!r:.40} have the id {number}")
    by_id[number] = (piece, kind)


def _check_merges(merges: Sequence[str], pieces: Set[str]) -> None:
    """Each must join two pieces to a third, and only once."""
    seen = set()
    for number, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in pieces or right not in pieces or left + right not in pieces or merge in seen:
            raise ValueError(f"merge {number} ({merge!r:.40}) does not join two pieces to a third, or occurs twice")
        seen.add(merge)
