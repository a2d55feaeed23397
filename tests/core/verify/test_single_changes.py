"""Every single change of a small file is found, but for those that change nothing, which are listed with the reason."""

import dataclasses
import math
import struct

import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import InputError
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.gguf.types import GGML_TYPES, ValueType
from conform.core.gguf.write import TensorEntry, encode_header
from conform.core.metadata import KeyValue
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify import verify_file

NAME = "a name for people, which other tools rewrite; no runtime computes with it"
LABEL = "a label for people, which a runtime does not compute with; a wrong one is a warning"
ALLOWED = {
    "general.name: deleted": NAME,
    "general.name: renamed": NAME,
    "general.name: perturbed": NAME,
    "general.name: emptied": NAME,
    "general.name: retyped": NAME,
    "general.file_type: deleted": LABEL,
    "general.file_type: renamed": LABEL,
    "general.file_type: perturbed": LABEL,
    "general.file_type: of type INT32": LABEL,
    "general.file_type: of type UINT64": LABEL,
    "general.file_type: of type FLOAT32": LABEL,
    "general.type: deleted": "whatever does not say that it is something else is a model",
    "general.type: renamed": "whatever does not say that it is something else is a model",
    "general.alignment: deleted": "the alignment of a file that states none is 32, as this one has",
    "general.alignment: renamed": "the alignment of a file that states none is 32, as this one has",
    "file: version 2": "versions 2 and 3 differ in byte order only, and both are read as little-endian",
    "file: first two keys swapped": "keys have no order",
}


@pytest.fixture(scope="module")
def content(tmp_path_factory, registry, micro_ternary, make_checkpoint):
    """An i2_s export with f16 embeddings and f32 norms, of one layer."""
    model = dataclasses.replace(micro_ternary.model, layers=1, hidden=128, heads=4, kv_heads=2, head_dim=32, ffn=256)
    contract = dataclasses.replace(micro_ternary, model=model)
    folder = make_checkpoint(tmp_path_factory.mktemp("changes"), contract)
    opened = open_checkpoint(folder)
    vocabulary = read_vocabulary(opened.tokenizer_path)
    plan = plan_export(opened, contract, vocabulary, registry, "i2_s", folder / "tiny.gguf")
    return run_export(plan).path.read_bytes()


@pytest.fixture
def tiny(content, tmp_path):
    return Tiny(content, tmp_path / "tiny.gguf")


class Tiny:
    """The file in parts, of which one is replaced at a time; the digests in it are left as they were."""

    def __init__(self, content, path):
        path.write_bytes(content)
        self.file = read_gguf(path)
        self.content = content
        self.data = content[self.file.data_start :]
        self.keys = {}
        for key, value in self.file.metadata.items():
            kind = self.file.key_types[key]
            self.keys[key] = KeyValue(kind.kind, tuple(value) if isinstance(value, list) else value, kind.item)
        self.entries = {
            t.name: TensorEntry(t.name, t.shape, t.ggml_type, t.offset - self.file.data_start)
            for t in self.file.tensors.values()
        }
        assert self.written() == content

    def written(self, keys=None, entries=None):
        keys = self.keys if keys is None else keys
        entries = self.entries if entries is None else entries
        return encode_header(keys, list(entries.values()), 32) + self.data

    def with_key(self, key, value):
        return self.written({**self.keys, key: value})

    def with_entry(self, entry_name, /, **changes):
        return self.written(
            entries={**self.entries, entry_name: dataclasses.replace(self.entries[entry_name], **changes)}
        )

    def patched(self, offset, replacement):
        return self.content[:offset] + replacement + self.content[offset + len(replacement) :]


def every_change(tiny):
    """(what, bytes) of every single change."""
    for key, value in tiny.keys.items():
        yield f"{key}: deleted", tiny.written({k: v for k, v in tiny.keys.items() if k != key})
        yield f"{key}: renamed", tiny.written({k + "_" * (k == key): v for k, v in tiny.keys.items()})
        for what, changed in other_values(value):
            yield f"{key}: {what}", tiny.with_key(key, changed)
    for name, entry in tiny.entries.items():
        for what, changed in other_tensors(tiny, name, entry):
            yield f"{name}: {what}", changed
    for what, changed in other_files(tiny):
        yield f"file: {what}", changed


WIDTHS = {
    ValueType.UINT32: (ValueType.INT32, ValueType.UINT64, ValueType.FLOAT32),
    ValueType.INT32: (ValueType.UINT32, ValueType.INT64, ValueType.FLOAT32),
    ValueType.FLOAT32: (ValueType.FLOAT64,),
    ValueType.BOOL: (ValueType.UINT8, ValueType.UINT32),
}


def other_values(value):
    if value.item is None:
        yield "perturbed", dataclasses.replace(value, value=perturbed(value.value))
        for kind in WIDTHS.get(value.kind, ()):
            yield f"of type {kind.name}", KeyValue(kind, value.value)
        if value.kind is ValueType.STRING:
            yield "emptied", dataclasses.replace(value, value="")
            yield "retyped", KeyValue(ValueType.ARRAY, (value.value,), ValueType.STRING)
        return
    yield "emptied", dataclasses.replace(value, value=())
    yield "reversed", dataclasses.replace(value, value=value.value[::-1] if len(value.value) > 1 else value.value * 2)
    yield "cut", dataclasses.replace(value, value=value.value[:-1])
    yield "repeated", dataclasses.replace(value, value=(*value.value, value.value[-1]))
    for kind in WIDTHS.get(value.item, ()):
        fits = kind is not ValueType.UINT32 or min(value.value) >= 0
        if fits:
            yield f"of type {kind.name}", KeyValue(ValueType.ARRAY, value.value, kind)
    count = len(value.value)
    for number in sorted({*range(count if count < 20 else 1), count // 2, count - 1}):
        for what, item in (("perturbed", perturbed(value.value[number])), ("emptied", type(value.value[number])())):
            items = (*value.value[:number], item, *value.value[number + 1 :])
            if items != value.value:
                yield f"item {number} {what}", dataclasses.replace(value, value=items)


def perturbed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return struct.unpack("<f", struct.pack("<i", struct.unpack("<i", struct.pack("<f", value))[0] + 1))[0]
    # A digit is replaced by a digit, so that a digest is still one.
    return value[:-1] + ("1" if value[-1:] != "1" else "2")


def other_tensors(tiny, name, entry):
    info = tiny.file.tensors[name]
    yield "deleted", tiny.written(entries={n: e for n, e in tiny.entries.items() if n != name})
    yield "renamed", tiny.with_entry(name, name=name + "_")
    for kind in (*GGML_TYPES, 777):
        if kind != entry.ggml_type:
            yield f"of type {kind}", tiny.with_entry(name, ggml_type=kind)
    yield "offset + 32", tiny.with_entry(name, offset=entry.offset + 32)
    yield "offset + 1", tiny.with_entry(name, offset=entry.offset + 1)
    if entry.shape[::-1] != entry.shape:
        yield "transposed", tiny.with_entry(name, shape=entry.shape[::-1])
    yield "flattened", tiny.with_entry(name, shape=(1, math.prod(entry.shape)))
    for place, offset in (("start", 0), ("middle", info.nbytes // 2), ("end", info.nbytes - 1)):
        for bit in (0, 7):
            flipped = bytes([tiny.content[info.offset + offset] ^ (1 << bit)])
            yield f"bit {bit} at the {place}", tiny.patched(info.offset + offset, flipped)
    for other, twin in tiny.entries.items():
        if other > name and (twin.shape, twin.ggml_type) == (entry.shape, entry.ggml_type):
            swapped = {name: dataclasses.replace(entry, name=other), other: dataclasses.replace(twin, name=name)}
            yield f"name swapped with {other}", tiny.written(entries=tiny.entries | swapped)
            offsets = {
                name: dataclasses.replace(entry, offset=twin.offset),
                other: dataclasses.replace(twin, offset=entry.offset),
            }
            yield f"bytes swapped with {other}", tiny.written(entries=tiny.entries | offsets)


def other_files(tiny):
    for start in range(4):
        yield f"magic {start}", tiny.patched(start, b"\0")
    for version in (1, 2, 4):
        yield f"version {version}", tiny.patched(4, struct.pack("<I", version))
    for what, offset, count in (("tensors", 8, len(tiny.entries)), ("keys", 16, len(tiny.keys))):
        for change in (-1, 1):
            yield f"{count + change} {what}", tiny.patched(offset, struct.pack("<Q", count + change))
    for offset in range(tiny.file.header_end, tiny.file.data_start):
        yield f"padding at {offset}", tiny.patched(offset, b"\1")
    for extra in (1, 32, 4096):
        yield f"{extra} zeros more", tiny.content + bytes(extra)
        yield f"{extra} bytes less", tiny.content[:-extra]
    first, second, *rest = tiny.keys
    yield "first two keys swapped", tiny.written({key: tiny.keys[key] for key in (second, first, *rest)})
    first, second, *rest = tiny.entries
    order = (second, first, *rest)
    yield "first two tensors swapped", tiny.written(entries={name: tiny.entries[name] for name in order})


def test_no_single_change_passes_unless_it_changes_nothing(tiny, registry, tmp_path):
    path = tmp_path / "changed.gguf"
    path.write_bytes(tiny.content)
    assert verify_file(path, registry).findings == ()
    tried, passed = 0, set()
    for what, changed in every_change(tiny):
        assert changed != tiny.content, what
        path.write_bytes(changed)
        tried += 1
        if conforms(path, registry):
            passed.add(what)
    assert passed == set(ALLOWED)
    assert tried > 606


def conforms(path, registry):
    try:
        return verify_file(path, registry).conforms
    except InputError:
        return False
