r"""Go's %q, read back: quoted text → the bytes that it stands for.

`\xff` is a raw byte, which neither JSON nor a Python literal can say; so the result is bytes, never text.
"""

import re

__all__ = ["QuoteError", "unquote"]

# What strconv.Quote writes for the seven control characters with a name, the backslash and the quote.
_NAMED = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\\": b"\\",
    b'"': b'"',
}
_PIECE = re.compile(
    rb'[^\\"\x00-\x1f\x7f]+'
    rb'|\\(?:(?P<named>[abfnrtv\\"])|x(?P<byte>[0-9a-f]{2})|u(?P<rune>[0-9a-f]{4})|U(?P<wide>[0-9a-f]{8}))'
)
_LARGEST_RUNE = 0x10FFFF


class QuoteError(ValueError):
    """Text that Go's %q never writes."""


def unquote(quoted: bytes) -> bytes:
    """The bytes that were quoted; raises QuoteError, with the place, for anything that %q does not write."""
    if len(quoted) < 2 or quoted[:1] != b'"' or quoted[-1:] != b'"':
        raise QuoteError("not enclosed in double quotes")
    body = quoted[1:-1]
    pieces = []
    place = 0
    while place < len(body):
        match = _PIECE.match(body, place)
        if match is None:
            raise QuoteError(f"unexpected {body[place : place + 2]!r} at byte {place + 1}")
        pieces.append(_unescaped(match))
        place = match.end()
    return b"".join(pieces)


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match["named"]:
        return _NAMED[match["named"]]
    if match["byte"]:
        return bytes([int(match["byte"], 16)])
    digits = match["rune"] or match["wide"]
    if not digits:
        return match[0]
    rune = int(digits, 16)
    if rune > _LARGEST_RUNE or 0xD800 <= rune <= 0xDFFF:
        raise QuoteError(f"{match[0].decode()} is not a Unicode character")
    return chr(rune).encode()
