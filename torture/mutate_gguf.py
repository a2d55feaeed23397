"""Mutate GGUF: a file put together again with one key or tensor made hostile, by an encoder that refuses nothing."""

import struct
from dataclasses import dataclass
from io import BytesIO
from random import Random

__all__ = ["gguf_parts"]

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_COUNTS = (0, 1, 5, 2**16, 2**31, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1)
_NAMES = (b"", b"\0", b"\xff", b"\x1b[2J", b"a" * 5000, b"general.alignment", b"token_embd.weight", "\u202e".encode())
_FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e38)


@dataclass(slots=True)
class _Parts:
    keys: list[tuple[bytes, bytes]]  # name, type and value
    tensors: list[tuple[bytes, list[int], int, int]]  # name, dimensions, type, offset
    data: bytes


def gguf_parts(content: bytes, random: Random) -> bytes:
    """One key or tensor removed, doubled, renamed, retyped, or given a hostile value, shape, type or offset."""
    parts = _take_apart(content)
    (_change_key if parts.keys and random.random() < 0.6 else _change_tensor)(parts, random)
    return _put_together(parts)


def _change_key(parts: _Parts, random: Random) -> None:
    number = random.randrange(len(parts.keys))
    name, value = parts.keys[number]
    match random.randrange(8):
        case 0:
            del parts.keys[number]
        case 1:
            parts.keys.append(parts.keys[number])
        case 2:
            parts.keys[number] = (random.choice(_NAMES), value)
        case 3:
            parts.keys[number] = (name, random.choice(parts.keys)[1])
        case _:
            parts.keys[number] = (name, _hostile_value(random))


def _hostile_value(random: Random) -> bytes:
    kind = random.choice((*_WIDTHS, _STRING, _STRING, _ARRAY, _ARRAY, 13, 2**32 - 1))
    head = struct.pack("<I", kind)
    if kind == _STRING:
        return head + _text(
            random.choice((b"", b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"x" * 70_000, b"[" * 5000, b"llama"))
        )
    if kind == _ARRAY:
        item = random.choice((0, 4, 5, 6, 7, _STRING, _ARRAY, 12))
        count = random.choice(_COUNTS)
        return head + struct.pack("<IQ", item, count) + bytes(min(count, 40) * 8)
    if kind in (6, 12):
        return head + struct.pack("<f" if kind == 6 else "<d", random.choice(_FLOATS))
    return head + random.choice(_COUNTS).to_bytes(8, "little")[: _WIDTHS.get(kind, 8)]


def _change_tensor(parts: _Parts, random: Random) -> None:
    number = random.randrange(len(parts.tensors))
    name, dimensions, kind, offset = parts.tensors[number]
    match random.randrange(7):
        case 0:
            del parts.tensors[number]
        case 1:
            parts.tensors.append(parts.tensors[number])
        case 2:
            name = random.choice((*_NAMES, random.choice(parts.tensors)[0]))
        case 3:
            dimensions[random.randrange(len(dimensions))] = random.choice((*_COUNTS, 32, 33, 256))
        case 4:
            kind = random.choice((*range(44), 99, 2**31, 2**32 - 1))
        case 5:
            offset = random.choice((*_COUNTS, 32, 31, len(parts.data)))
        case _:
            dimensions = random.choice(([], [1], dimensions[::-1], [*dimensions, 1], [*dimensions, 1, 1, 1]))
    if number < len(parts.tensors):
        parts.tensors[number] = (name, dimensions, kind, offset)


def _take_apart(content: bytes) -> _Parts:
    file = BytesIO(content)
    _, _, tensor_count, key_count = struct.unpack("<4sIQQ", file.read(24))
    keys = [(_read_text(file), _read_value(file)) for _ in range(key_count)]
    tensors = []
    for _ in range(tensor_count):
        name = _read_text(file)
        (count,) = struct.unpack("<I", file.read(4))
        *dimensions, kind, offset = struct.unpack(f"<{count}QIQ", file.read(8 * count + 12))
        tensors.append((name, dimensions, kind, offset))
    return _Parts(keys, tensors, content[-(-file.tell() // 32) * 32 :])


def _read_text(file: BytesIO) -> bytes:
    return file.read(struct.unpack("<Q", file.read(8))[0])


def _read_value(file: BytesIO) -> bytes:
    start = file.tell()
    (kind,) = struct.unpack("<I", file.read(4))
    count = 1
    if kind == _ARRAY:
        kind, count = struct.unpack("<IQ", file.read(12))
    for _ in range(count):
        if kind == _STRING:
            _read_text(file)
        else:
            file.read(_WIDTHS[kind])
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


def _put_together(parts: _Parts) -> bytes:
    out = [struct.pack("<4sIQQ", b"GGUF", 3, len(parts.tensors), len(parts.keys))]
    out += [_text(name) + value for name, value in parts.keys]
    for name, dimensions, kind, offset in parts.tensors:
        out.append(_text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset))
    header = b"".join(out)
    return header + bytes(-len(header) % 32) + parts.data


def _text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content
