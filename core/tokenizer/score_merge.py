"""Score merge: how a runtime encodes text, written plainly from its description and without SentencePiece.

One `▁` is put before the text, where the tokenizer has a dummy prefix, and every space becomes `▁`. Then, starting from
single code points, the adjacent pair whose concatenation is the piece with the highest score is merged, the leftmost of
equals first, until no pair makes a piece. A symbol that is not a piece becomes its UTF-8 bytes as `<0xNN>` pieces, or
the unknown id without such pieces.
"""

import heapq
import re

from conform.core.errors import CheckpointError
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["ScoreMerge"]

_SPACE = "\u2581"
_MERGED_TYPES = (1, 4, 5)  # normal, user-defined and unused pieces; control pieces are never spelled by text
_BYTE = 6


class ScoreMerge:
    """Merging by score over a vocabulary. Raises CheckpointError for a byte piece that does not name a byte."""

    def __init__(self, vocabulary: Vocabulary, dummy_prefix: bool = True) -> None:
        self._prefix = _SPACE if dummy_prefix else ""
        self._ids: dict[str, int] = {}
        self._bytes: dict[int, int] = {}
        for number, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True)):
            if kind in _MERGED_TYPES:
                self._ids.setdefault(piece, number)
            elif kind == _BYTE:
                self._bytes[_byte_value(piece)] = number
        self._scores = vocabulary.scores
        self._unk_id = vocabulary.unk_id

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. An empty text has none."""
        if not text:
            return []
        symbols = list(self._prefix + text.replace(" ", _SPACE))
        self._merge(symbols)
        return [number for symbol in symbols if symbol for number in self._symbol_ids(symbol)]

    def _merge(self, symbols: list[str]) -> None:
        """Merge in place; a symbol that was merged into its left neighbour is left empty."""
        right = list(range(1, len(symbols) + 1))
        left = list(range(-1, len(symbols) - 1))
        heap: list[tuple[float, int, str]] = []

        def offer(first: int, second: int) -> None:
            if first >= 0 and second < len(symbols):
                merged = symbols[first] + symbols[second]
                if (number := self._ids.get(merged)) is not None:
                    heapq.heappush(heap, (-self._scores[number], first, merged))

        for place in range(len(symbols) - 1):
            offer(place, place + 1)
        while heap:
            _, first, merged = heapq.heappop(heap)
            second = right[first]
            # An entry is stale when either of its symbols has changed since it was offered.
            if not symbols[first] or second >= len(symbols) or symbols[first] + symbols[second] != merged:
                continue
            symbols[first], symbols[second] = merged, ""
            right[first] = right[second]
            if right[first] < len(symbols):
                left[right[first]] = first
            offer(left[first], first)
            offer(first, right[first])

    def _symbol_ids(self, symbol: str) -> list[int]:
        if symbol in self._ids:
            return [self._ids[symbol]]
        encoded = symbol.encode()
        if all(byte in self._bytes for byte in encoded):
            return [self._bytes[byte] for byte in encoded]
        return [self._unk_id]


def _byte_value(piece: str) -> int:
    if not re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        raise CheckpointError(f"byte piece {piece[:40]!r}: expected <0x00> to <0xFF>; train one by conform's recipe")
    return int(piece[3:5], 16)
