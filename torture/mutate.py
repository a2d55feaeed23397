"""Mutate: damaged copies of a sound file, by bytes and by what its format holds; equal random numbers, equal copies.

A structural mutation takes the file apart, puts something hostile in one place, and puts it together again, so that
everything around that place is still what the reader expects: lengths, offsets, counts and digests.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from conform.contract.toml import toml_text

__all__ = [
    "Mutation",
    "json_lines",
    "json_values",
    "mutated_bytes",
    "protobuf_fields",
    "safetensors_values",
    "toml_values",
]

Mutation = Callable[[bytes, Random], bytes]
"""The file's bytes and random numbers → other bytes. It may raise ValueError where it cannot take the file apart."""

_NUMBERS = (0, 1, 2, 127, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_HOLE = "@hole@"

# What JSON and TOML texts hold in one place; the second list is of texts that only JSON knows.
_SHARED_VALUES = (
    *("0", "-1", "1", "1.5", "-0.0", "1e308", "9" * 19, "9" * 400, "9" * 5000, "-" + "9" * 5000, "true", "false"),
    *('""', '"\\u0000"', '"/etc/passwd"', '"../../x"', '"."', '"a/b"', '"\x7f"', '"%s{}"', '"' + "x" * 70_000 + '"'),
    *("[]", "[[]]", "{}", "[" * 100_000, "[" * 300 + "]" * 300, "[" * 900 + "]" * 900, "[0, 0, 0]", '["", ""]'),
)
_JSON_VALUES = (
    *_SHARED_VALUES,
    *("null", "NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', '"\\udfff\\ud800"', '{"\\ud800": 1}'),
    *('{"a": ' * 100_000, '{"a": 1, "a": 2}', "[null]", '{"": null}', '"\\u0000\\u001b[2J"', '{"a": NaN}'),
)
_TOML_VALUES = (*_SHARED_VALUES, "nan", "inf", "-inf", "1979-05-27", '"""', "''", "{a = 1, a = 2}", "0x" + "f" * 5000)


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """One to four blind changes: bits, bytes, whole numbers, pieces that are cut out, repeated or inserted, the end."""
    damaged = bytearray(content)
    for _ in range(random.randint(1, 4)):
        random.choice(_BYTE_CHANGES)(damaged, random)
    return bytes(damaged)


def _flip(damaged: bytearray, random: Random) -> None:
    if damaged:
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)


def _set(damaged: bytearray, random: Random) -> None:
    if damaged:
        damaged[random.randrange(len(damaged))] = random.choice(
            (0, 0xFF, 0x80, ord('"'), ord("{"), random.randrange(256))
        )


def _number(damaged: bytearray, random: Random) -> None:
    width = random.choice((1, 2, 4, 8))
    start = random.randrange(max(1, len(damaged) - width))
    value = (random.choice(_NUMBERS) + random.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    damaged[start : start + width] = value.to_bytes(width, "little")


def _cut(damaged: bytearray, random: Random) -> None:
    start = random.randrange(len(damaged) + 1)
    del damaged[start : start + random.choice((1, 4, 8, 64))]


def _repeat(damaged: bytearray, random: Random) -> None:
    start = random.randrange(len(damaged) + 1)
    damaged[start:start] = damaged[start : start + random.choice((1, 8, 64))] * random.choice((1, 2, 50))


def _insert(damaged: bytearray, random: Random) -> None:
    start = random.randrange(len(damaged) + 1)
    damaged[start:start] = random.choice((b"\xff", b"\0" * 8, b"\xed\xa0\x80", b"\n", b"[" * 2000, random.randbytes(8)))


def _truncate(damaged: bytearray, random: Random) -> None:
    del damaged[random.randrange(len(damaged) + 1) :]


_BYTE_CHANGES = (_flip, _flip, _set, _set, _number, _number, _cut, _repeat, _insert, _truncate)


def json_values(content: bytes, random: Random) -> bytes:
    """A JSON text with one value, name or entry replaced, removed, doubled or added."""
    return _with_hostile_value(json.loads(content), random, _JSON_VALUES, lambda tree: json.dumps(tree, indent=1))


def json_lines(content: bytes, random: Random) -> bytes:
    """Lines of JSON, one of them so changed, or lines doubled, swapped or removed."""
    lines = content.splitlines()
    number = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            lines.insert(random.randrange(len(lines)), lines[number])
        case 1:
            del lines[number]
        case _:
            lines[number] = json_values(lines[number], random).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def toml_values(content: bytes, random: Random) -> bytes:
    """A TOML text with one value, name or entry replaced, removed or added."""
    import tomllib

    return _with_hostile_value(tomllib.loads(content.decode()), random, _TOML_VALUES, toml_text)


def safetensors_values(content: bytes, random: Random) -> bytes:
    """A safetensors file whose header, of the right length, holds something hostile."""
    length = int.from_bytes(content[:8], "little")
    header = json_values(content[8 : 8 + length], random)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _with_hostile_value(tree: Any, random: Random, values: Sequence[str], to_text: Callable[[Any], str]) -> bytes:
    places = list(_places(tree))
    holder, key = random.choice(places)
    match random.randrange(8):
        case 0:
            del holder[key]
            return to_text(tree).encode()
        case 1:
            other, place = random.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
            return to_text(tree).encode()
        case 2 if isinstance(holder, dict):
            holder[random.choice(("format", "sha256", "x", "", "\0", "__metadata__", "a" * 5000))] = _HOLE
        case 3 if isinstance(holder, dict):
            # The same name once more, in front of its own value.
            return _doubled(to_text(tree), key, random.choice(values)).encode("utf-8", "surrogatepass")
        case _:
            holder[key] = _HOLE
    return to_text(tree).replace(f'"{_HOLE}"', random.choice(values), 1).encode("utf-8", "surrogatepass")


def _doubled(text: str, key: str, value: str) -> str:
    name = f'"{key}":'
    return text.replace(name, f"{name} {value}, {name}", 1) if name in text else f"{key} = {value}\n{text}"


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree of tables and lists."""
    keys = tree if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def protobuf_fields(content: bytes, random: Random) -> bytes:
    """A protobuf message with one field, at most one level down, replaced, removed, doubled or added."""
    fields = list(_fields(content))
    number = random.randrange(len(fields))
    if number < len(fields) - 2 and random.random() < 0.4:  # the last fields hold all but the pieces
        number = len(fields) - 1 - random.randrange(2)
    tag, body = fields[number]
    match random.randrange(6):
        case 0:
            del fields[number]
        case 1:
            fields.insert(random.randrange(len(fields)), fields[random.randrange(len(fields))])
        case 2:
            fields.append(_hostile_field(random))
        case _:
            inner = list(_fields(body)) if tag & 7 == 2 else []
            if inner:
                place = random.randrange(len(inner))
                changed = _hostile_field(random, inner[place][0] >> 3)
                inner[place : place + random.randrange(2)] = [changed]
                body = _joined(inner)
            fields[number] = (tag, body)
    return _joined(fields)


def _hostile_field(random: Random, number: int | None = None) -> tuple[int, bytes]:
    if number is None:
        number = random.choice((1, 2, 3, 4, 40, 41, 2**29 - 1))
    kind = random.choice((0, 1, 2, 2, 2, 5))
    if kind == 0:
        return number << 3, _varint(random.choice(_NUMBERS))
    if kind == 2:
        texts = (b"", b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"a" * 70_000, b"<s>", "▁".encode(), b"<0x0A>", b"\xc0\x80")
        return number << 3 | 2, random.choice(texts)
    floats = (float("nan"), float("inf"), -0.0, 3e38)
    return number << 3 | kind, struct.pack("<f" if kind == 5 else "<d", random.choice(floats))


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of each field; ValueError where this is no message."""
    position = 0
    while position < len(content):
        tag, position = _read_varint(content, position)
        start = position
        if tag & 7 == 2:
            length, start = _read_varint(content, position)
            position = start + length
        elif tag & 7 == 0:
            _, position = _read_varint(content, position)
        else:
            position += 8 if tag & 7 == 1 else 4
        if position > len(content) or tag & 7 not in (0, 1, 2, 5):
            return
        yield tag, content[start:position]


def _joined(fields: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(_varint(tag) + (_varint(len(body)) if tag & 7 == 2 else b"") + body for tag, body in fields)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content):
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    return value, position
