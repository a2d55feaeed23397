"""Hostile text: what breaks tokenizers, the same on every machine."""

from conform.core.cases.text import hostile_texts

__all__ = ["HOSTILE_TEXTS", "RESERVED_TEXTS"]

_WRITTEN = tuple(hostile_texts("tokenizer").values())


def _every_byte() -> str:
    """One character for each first byte that UTF-8 has, and for each continuation byte."""
    ascii_and_latin = "".join(map(chr, range(1, 0x100)))
    leads = "".join(chr(lead << 6) for lead in range(3, 0x20))
    triples = "".join(chr(0x1000 * lead + 0x123) for lead in range(1, 16) if lead != 13)
    quads = "".join(chr(0x40000 * lead + 0x10123) for lead in range(5) if 0x40000 * lead + 0x10123 <= 0x10FFFF)
    return ascii_and_latin + leads + triples + quads


def _mixed(count: int) -> tuple[str, ...]:
    """Pseudo-random concatenations (a linear congruential generator, so that every machine makes the same)."""
    state, texts = 12345, []
    for _ in range(count):
        pieces = []
        for _ in range(8):
            state = (state * 1103515245 + 12345) % 2**31
            text = _WRITTEN[state % len(_WRITTEN)]
            pieces.append(text[(state >> 8) % max(1, len(text)) :][:12])
        texts.append("".join(pieces))
    return tuple(texts)


HOSTILE_TEXTS = (*_WRITTEN, _every_byte(), *_mixed(200))
"""Each must be encoded and decoded without loss; none holds U+2581."""

RESERVED_TEXTS = tuple(hostile_texts("reserved").values())
"""These hold the character by which SentencePiece writes a space: ids must agree, but it comes back as a space."""
