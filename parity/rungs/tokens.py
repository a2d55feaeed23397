"""tokens: the runtime's ids against the tokenizer's library over a hostile corpus, its text against the pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["PrintedPieces", "Tokenisation", "TokenisedText", "judge_tokens"]

_SHOWN_IDS = 12
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class TokenisedText:
    """A text and its ids by the tokenizer's own library; what the runtime lists, None where it cannot; and what it ran.

    `count` and `last` are the number of ids and the last of them as its first decode step reports them.
    """

    text: str
    expected: tuple[int, ...]
    listed: tuple[int, ...] | None
    count: int
    last: int


@dataclass(frozen=True, slots=True)
class PrintedPieces:
    """What was printed for forced pieces of every kind, and the texts that are right."""

    found: bytes
    accepted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Tokenisation:
    """Everything that was tokenized; `printed` is None when the file holds no piece to print."""

    texts: Sequence[TokenisedText]
    printed: PrintedPieces | None
    note: str = ""


def judge_tokens(seen: Tokenisation | None) -> RungResult:
    """Exact ids for every text; where the runtime cannot list them, their number and the last of them."""
    if seen is None:
        return not_run("tokens", "no tokenizer to compare with; give --checkpoint or --tokenizer")
    findings = [finding for text in seen.texts for finding in _wrong_ids(text)] + list(_wrong_text(seen.printed))
    compared = sum(2 if text.listed is None else len(text.expected) for text in seen.texts)
    in_full = sum(text.listed is not None for text in seen.texts)
    note = f"{in_full} of {len(seen.texts)} texts compared id by id, the others by number of ids and last id"
    notes = [note, seen.note] if seen.note else [note]
    return judged("tokens", compared, "ids", [Measurement("texts that differ", len(findings), 0)], findings, notes)


def _wrong_ids(text: TokenisedText) -> Iterator[Finding]:
    if text.listed is not None and text.listed != text.expected:
        yield _different(text.text, text.expected, text.listed)
    if (text.count, text.last) != (len(text.expected), text.expected[-1]):
        where = repr(text.text[:_SHOWN_CHARACTERS])
        expected = f"{len(text.expected)} ids, the last {text.expected[-1]}"
        yield Finding("error", where, expected, f"{text.count} ids, the last {text.last}")


def _different(text: str, expected: tuple[int, ...], found: tuple[int, ...]) -> Finding:
    first = _first_difference(expected, found)
    shown = slice(first, first + _SHOWN_IDS)
    return Finding(
        "error",
        f"{text[:_SHOWN_CHARACTERS]!r}, id {first}",
        f"{list(expected[shown])} of {len(expected)}",
        f"{list(found[shown])} of {len(found)}",
    )


def _wrong_text(printed: PrintedPieces | None) -> Iterator[Finding]:
    if printed is None:
        yield Finding("error", "tokenizer.ggml.tokens", "pieces to print", "none")
    elif printed.found not in printed.accepted:
        expected = printed.accepted[0]
        first = _first_difference(expected, printed.found)
        shown = slice(max(first - 8, 0), first + 24)
        yield Finding("error", "text of forced pieces", repr(expected[shown]), repr(printed.found[shown]))


def _first_difference(expected: Sequence[int], found: Sequence[int]) -> int:
    pairs = zip(expected, found, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
