"""Hostile text: what breaks tokenizers, the same on every machine."""

__all__ = ["HOSTILE_TEXTS", "RESERVED_TEXTS"]

_WORDS = (
    "Hello world",
    " leading",
    "trailing ",
    "  two   three    four     ",
    "\ttabs\tand\nnewlines\r\nand\rreturns\n\n\n",
    "\n",
    " ",
    "    if x == 1:\n        return 1.5e-10 + 0xFF\n",
    "1234567890 3.14159 1,000,000 2026-11-22 ١٢٣ १२३",
    "don't stop—believin’ “quotes” ‘single’ … «guillemets»",
    "<s> </s> <unk> <pad> <0x41> <|endoftext|> [INST]",
    "<s></s><unk><0x0A>",
    "https://example.org/a?b=c&d=%20#frag user@example.org C:\\path\\to",
    "naïve café coöperate Ångström ﬁne ﬃ ß ẞ İ ı",
    "e\u0301 o\u0308 n\u0303 a\u0328\u0301",  # combining marks, which identity normalisation must leave alone
    "\u1112\u1161\u11ab \ud55c",  # Hangul as letters and as one syllable
    "中文字符没有空格，全角标点！　全角空格",
    "日本語のテキスト、カタカナ、ﾊﾝｶｸ",
    "Русский Ελληνικά עברית العربية हिन्दी ไทย ქართული አማርኛ",
    "\u202eright to left\u202c \u200fmark\u200e",
    "👍👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ 😀",
    "zero\u200bwidth\u200cjoin\u200der\u2060word\ufeffbom",
    "nbsp\u00a0thin\u2009hair\u200aideo\u3000nel\u0085ls\u2028ps\u2029",
    "\x01\x02\x07\x08\x0b\x0c\x1b[31mred\x7f\x80\x9f",
    "\ue000\uf8ff\U000f0000\U0010fffd\U0010ffff\ufffe\uffff\ufffd",
    "𝓕𝔞𝔫𝔠𝔶 𝟙𝟚𝟛 𐍈𒀀𓀀",
    "a" * 3000,
    " " * 300,
    "ab" * 1000,
    "\n" * 100 + "\t" * 100,
    "x" + "\u0301" * 200,  # one letter under two hundred accents
    "😀" * 100,
)


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
            word = _WORDS[state % len(_WORDS)]
            pieces.append(word[(state >> 8) % len(word) :][:12])
        texts.append("".join(pieces))
    return tuple(texts)


HOSTILE_TEXTS = (*_WORDS, _every_byte(), *_mixed(200))
"""Each must be encoded and decoded without loss; none holds U+2581."""

RESERVED_TEXTS = ("\u2581", "a\u2581b", "\u2581 \u2581")
"""These hold the character by which SentencePiece writes a space: ids must agree, but it comes back as a space."""
