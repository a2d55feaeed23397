import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.parity.drivers.goquote import QuoteError, unquote

NAMED = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\", 34: '\\"'}


def go_quote(content):
    """strconv.Quote in Python: printable runes literal, invalid UTF-8 byte by byte."""
    out = []
    for char in content.decode("utf-8", "surrogateescape"):
        rune = ord(char)
        if 0xDC80 <= rune <= 0xDCFF:
            out.append(f"\\x{rune - 0xDC00:02x}")
        elif rune in NAMED:
            out.append(NAMED[rune])
        elif char.isprintable():
            out.append(char)
        elif rune < 0x20 or rune == 0x7F:
            out.append(f"\\x{rune:02x}")
        else:
            out.append(f"\\u{rune:04x}" if rune < 0x10000 else f"\\U{rune:08x}")
    return f'"{"".join(out)}"'.encode()


@given(st.binary())
def test_any_bytes_come_back(content):
    assert unquote(go_quote(content)) == content


@given(st.text())
def test_any_text_comes_back(text):
    content = text.encode("utf-8", "replace")
    assert unquote(go_quote(content)) == content


@pytest.mark.parametrize(
    ("quoted", "content"),
    [
        (rb'""', b""),
        (rb'"\a\b\f\n\r\t\v\\\""', b'\a\b\f\n\r\t\v\\"'),
        (rb'"\x00\x7f\xff"', b"\x00\x7f\xff"),
        (rb'"\u200b\U0010ffff"', "\u200b\U0010ffff".encode()),
        ('"naïve 漢"'.encode(), "naïve 漢".encode()),
    ],
)
def test_golden(quoted, content):
    assert unquote(quoted) == content


@pytest.mark.parametrize(
    "quoted",
    [
        b"",
        b'"',
        b"abc",
        b'"abc',
        b"'abc'",
        b'"a"b"',
        b'"line\nbreak"',
        b'"\\"',
        b'"\\q"',
        b'"\\x4"',
        b'"\\xZZ"',
        b'"\\u12"',
        b'"\\ud800"',
        b'"\\U00110000"',
        b'"\\101"',
        b'"\\\'"',
    ],
)
def test_what_go_never_writes_is_refused(quoted):
    with pytest.raises(QuoteError):
        unquote(quoted)
