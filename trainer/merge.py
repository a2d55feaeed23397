"""Merge: the runtime's tokenizer, written plainly from its description and without SentencePiece.

One `▁` is put before the text and every space becomes `▁`; then, over code points, the adjacent pair whose
concatenation is the piece of highest score is merged, the leftmost first among equals, until none is left. A symbol
that is no piece becomes its UTF-8 bytes as `<0xNN>` pieces, or the unknown id where there are none.
"""

import heapq

from conform.trainer.model_proto import BYTE, NORMAL, UNUSED, USER_DEFINED, ModelProto

__all__ = ["Merger"]

_SPACE = "\u2581"


class Merger:
    """Score-ordered merging over the vocabulary of a model."""

    def __init__(self, model: ModelProto) -> None:
        self._ids: dict[str, int] = {}
        self._bytes: dict[int, int] = {}
        for number, piece in enumerate(model.pieces):
            if piece.type in (NORMAL, USER_DEFINED, UNUSED):
                self._ids.setdefault(piece.text, number)
            elif piece.type == BYTE:
                self._bytes[int(piece.text[1:-1], 16)] = number
        self._scores = [piece.score for piece in model.pieces]
        self._unk_id = model.unk_id

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. An empty text has none."""
        if not text:
            return []
        symbols = list(_SPACE + text.replace(" ", _SPACE))
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
