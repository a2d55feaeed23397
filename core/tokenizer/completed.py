"""Completed vocabulary: the pieces of a model file with what the settings beside it add, one for each embedding row.

Rows behind the pieces hold added tokens, and otherwise `[PADn]`, which is how other converters fill them.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from conform.contract.finding import Finding
from conform.contract.spec import Contract
from conform.core.tokenizer.settings import TokenizerSettings
from conform.core.tokenizer.token import AddedToken
from conform.core.tokenizer.vocabulary import PIECE_TYPES, Vocabulary

__all__ = ["check_settings", "completed", "resolved"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = sorted(PIECE_TYPES)
# What other converters write; no runtime merges by these scores, since no text is merged into these pieces.
_ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0
# No tokenizer has as many pieces; a hostile file might ask for them, to exhaust the memory. Then none is filled in.
_MOST_ROWS = 1 << 20


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def resolved(vocabulary: Vocabulary, settings: TokenizerSettings, rows: int) -> Vocabulary:
    """The same pieces with the special ids and the flags that the settings give them, and the chat template.

    What the settings do not say is as the model file says it; the id of a token without an embedding row is -1.
    """
    number_of = _numbers(vocabulary, settings, rows)
    prefix = settings.add_prefix_space
    return dataclasses.replace(
        vocabulary,
        unk_id=_special_id(vocabulary.unk_id, settings.unk, number_of),
        bos_id=_special_id(vocabulary.bos_id, settings.bos, number_of),
        eos_id=_special_id(vocabulary.eos_id, settings.eos, number_of),
        pad_id=_special_id(vocabulary.pad_id, settings.pad, number_of),
        add_dummy_prefix=vocabulary.add_dummy_prefix if prefix is None else prefix,
        add_bos=vocabulary.add_bos if settings.add_bos is None else settings.add_bos,
        add_eos=vocabulary.add_eos if settings.add_eos is None else settings.add_eos,
        chat_template=settings.chat_template,
    )


def completed(vocabulary: Vocabulary, settings: TokenizerSettings, rows: int) -> Vocabulary:
    """The vocabulary as the checkpoint means it, with a piece for each of the embedding's rows."""
    scored = vocabulary.scores or (0.0,) * len(vocabulary.pieces)
    pieces = [_Piece(*piece) for piece in zip(vocabulary.pieces, scored, vocabulary.types, strict=True)]
    for number in range(len(pieces), rows if rows <= _MOST_ROWS else 0):
        pieces.append(_Piece(f"[PAD{number}]", _PADDING_SCORE, _UNUSED))
    for token in settings.added:
        if token.id < len(pieces):
            pieces[token.id] = _with_token(pieces[token.id], token)
    texts, scores, types = zip(*pieces, strict=True)
    return dataclasses.replace(
        resolved(vocabulary, settings, rows),
        pieces=texts,
        scores=scores if vocabulary.scores else (),
        types=types,
    )


def check_settings(vocabulary: Vocabulary, settings: TokenizerSettings, contract: Contract) -> Iterator[Finding]:
    """What the settings add to the model's own vocabulary, and everything in which they contradict it."""
    count, rows = len(vocabulary.pieces), contract.model.vocab
    if count > rows:
        hint = "a token without an embedding row would crash the model; the tokenizer belongs to another model"
        yield Finding("error", "tokenizer", f"at most {rows} pieces", f"{count} pieces", hint)
    elif rows > _MOST_ROWS:
        yield Finding("error", "tokenizer", f"an embedding of at most {_MOST_ROWS} rows", f"{rows} rows")
    yield from _check_rows(count, settings, rows)
    yield from _check_renamed(vocabulary, settings)
    yield from _check_same_pieces(vocabulary, settings)
    if settings.add_prefix_space and not vocabulary.add_dummy_prefix:
        hint = "libraries disagree about which of the two counts; correct the one that is wrong"
        origin = settings.origins["add_prefix_space"]
        yield Finding(
            "error", "tokenizer.add_dummy_prefix", "false, as the tokenizer has it", f"true in {origin}", hint
        )
    yield from _check_left_out(settings, contract.tokenizer.eos_id)


def _with_token(piece: _Piece, token: AddedToken) -> _Piece:
    """What stands at the id of an added token: the model's own piece where it is of that kind already."""
    kind = _CONTROL if token.special else _USER_DEFINED
    if token.text == piece.text:
        # Unknown and byte pieces are special enough: no text is merged into them.
        kept = (kind, _UNKNOWN, _BYTE) if token.special else (kind,)
        return piece if piece.kind in kept else piece._replace(kind=kind)
    # A runtime looks for user-defined pieces in the text as it stands, before spaces are marked.
    return _Piece(token.text if token.special else token.text.replace("\u2581", " "), _ADDED_SCORE, kind)


def _numbers(vocabulary: Vocabulary, settings: TokenizerSettings, rows: int) -> dict[str, int]:
    """The id of each text that has a row; of a text that occurs twice the first, as libraries look it up."""
    renamed = {token.id for token in settings.added}
    own = [(text, number) for number, text in enumerate(vocabulary.pieces) if number not in renamed]
    added = [(token.text, token.id) for token in settings.added if token.id < rows]
    return dict(sorted(own + added, key=lambda pair: -pair[1]))


def _special_id(own: int, stated: str | None, number_of: Mapping[str, int]) -> int:
    """The id of a special token, -1 for one that the settings name and that has no piece."""
    return own if stated is None else number_of.get(stated, -1)


def _check_rows(count: int, settings: TokenizerSettings, rows: int) -> Iterator[Finding]:
    added = [token for token in settings.added if count <= token.id < rows]
    if count < rows:
        kinds = [
            f"{sum(token.special for token in added)} control",
            f"{sum(not t.special for t in added)} user-defined",
        ]
        found = (
            f"{count} pieces; {' and '.join(kinds)} pieces added, {rows - count - len(added)} rows filled with [PADn]"
        )
        yield Finding("warning", "tokenizer", f"{rows} pieces, one for each embedding row", found)
    for token in settings.added:
        if token.id >= rows:
            hint = "the embedding has no such row, so the model cannot know the token; it is left out"
            yield Finding(
                "warning", f"added token {token.id} {token.text!r:.80}", f"an id below {rows}", str(token.id), hint
            )


def _check_renamed(vocabulary: Vocabulary, settings: TokenizerSettings) -> Iterator[Finding]:
    for token in settings.added:
        if token.id >= len(vocabulary.pieces):
            continue
        piece, kind = vocabulary.pieces[token.id], vocabulary.types[token.id]
        if piece != token.text and kind in (_NORMAL, _BYTE):
            hint = f"the model knows {piece!r:.80} by this id; correct the settings beside the tokenizer"
            yield Finding("error", f"added token {token.id}", repr(piece)[:80], repr(token.text)[:80], hint)


def _check_same_pieces(vocabulary: Vocabulary, settings: TokenizerSettings) -> Iterator[Finding]:
    """The first piece of tokenizer.json that is neither the model's nor an added token."""
    if not settings.pieces:
        return
    added = {token.text: token.id for token in settings.added}
    own = {text: number for number, text in enumerate(vocabulary.pieces)}
    renamed = {token.id for token in settings.added}
    wrong = [text for text, number in settings.pieces.items() if number not in (own.get(text), added.get(text))]
    wrong += [text for text, number in own.items() if text not in settings.pieces and number not in renamed]
    if wrong:
        number = settings.pieces.get(wrong[0])
        expected = f"{wrong[0]!r:.80} with the id {own.get(wrong[0], 'of no piece')}, as the tokenizer has it"
        hint = f"{len(wrong)} pieces differ; one of the two files belongs to another model, remove it"
        yield Finding("error", "tokenizer.json", expected, "no such piece" if number is None else f"id {number}", hint)


def _check_left_out(settings: TokenizerSettings, eos: int) -> Iterator[Finding]:
    if settings.stop_ids and settings.stop_ids != (eos,):
        hint = "a runtime stops where the contract's EOS says"
        yield Finding(
            "warning", "generation_config.json", f"eos_token_id {eos}", str(list(settings.stop_ids))[:80], hint
        )
    for name, what in settings.left_out:
        yield Finding("warning", name, "what a GGUF file of a contract holds", what, "it is left out")
