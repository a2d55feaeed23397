import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from conform.core.errors import GGUFError, InputError
from conform.core.gguf.read import KeyType, read_gguf
from conform.core.gguf.types import ValueType
from conform.core.gguf.write import TensorEntry, encode_header
from conform.core.metadata import KeyValue, boolean, f32, f32_array, i32_array, string, string_array, u32

METADATA = {
    "general.architecture": string("llama"),
    "general.alignment": u32(64),
    "a.float": f32(0.5),
    "a.flag": boolean(True),
    "a.text": string("größe"),
    "a.texts": string_array(["<0x0A>", "▁the"]),
    "a.floats": f32_array([1.0, -2.0]),
    "a.ints": i32_array([-1, 7]),
    "a.big": KeyValue(ValueType.UINT64, 1 << 63),
}
TENSORS = [TensorEntry("one", (3, 32), 8, 0), TensorEntry("two", (5,), 0, 128)]
HEADER = encode_header(METADATA, TENSORS, 64)
FILE = HEADER + bytes(range(102)) + bytes(26) + np.arange(5, dtype="<f4").tobytes() + bytes(44)


def header(keys=b"", tensors=b"", *, key_count=0, tensor_count=0, version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensor_count, key_count) + keys + tensors


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def tensor(name="t", dims=(32,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.fixture
def write(tmp_path):
    def run(content):
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        return path

    return run


def test_keys_and_tensors_are_read_as_written(write):
    file = read_gguf(write(FILE))
    assert file.version == 3
    assert file.alignment == 64
    assert file.data_start == len(HEADER)
    for key, value in METADATA.items():
        expected = list(value.value) if isinstance(value.value, tuple) else value.value
        assert file.metadata[key] == expected
        assert file.key_types[key] == KeyType(value.kind, value.item)
    assert [(t.name, t.shape, t.ggml_type, t.nbytes) for t in file.tensors.values()] == [
        ("one", (3, 32), 8, 102),
        ("two", (5,), 0, 20),
    ]
    assert file.packed("one").tolist() == list(range(102))
    assert file.packed("two").view("<f4").tolist() == [0, 1, 2, 3, 4]


def test_version_2_is_read_and_bytes_that_are_no_utf8_survive(write):
    keys = text("k") + struct.pack("<I", 8) + text(b"\xff\xfe")
    file = read_gguf(write(header(keys, key_count=1, version=2)))
    assert file.metadata["k"].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_mapped_bytes_are_read_only(write):
    packed = read_gguf(write(FILE)).packed("one")
    with pytest.raises(ValueError, match="read-only"):
        packed[0] = 1


def test_a_size_rule_gives_the_size_of_unknown_types(write):
    path = write(header(tensors=tensor(kind=9999), tensor_count=1).ljust(128, b"\0"))
    assert read_gguf(path, lambda kind, shape: 7 if (kind, shape) == (9999, (32,)) else None).tensors["t"].nbytes == 7
    with pytest.raises(GGUFError, match="t: unknown tensor type 9999"):
        read_gguf(path).packed("t")


U64 = struct.pack("<Q", 1 << 63)
KEY = text("k")
INVALID = {
    "empty": (b"", "not a GGUF file"),
    "another format": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "a checkpoint": (
        save({"w": np.ones(2)}),
        "is a safetensors file, not a GGUF file; give what `conform export` writes",
    ),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, .* `git lfs pull`"),
    "part of a model": (
        header(
            text("split.no") + struct.pack("<IH", 2, 0) + text("split.count") + struct.pack("<IH", 2, 3), key_count=2
        ),
        "part 1 of 3 of a split GGUF file; merge the parts first",
    ),
    "parts without a number": (
        header(text("split.count") + struct.pack("<IH", 2, 3), key_count=1),
        "part one of 3 of a split GGUF file",
    ),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(100), "big-endian"),
    "version 1": (header(version=1), "version 1"),
    "version 4": (header(version=4), "version 4"),
    "too many tensors": (header(tensor_count=1 << 40), "claims 1099511627776 tensors"),
    "more tensors than bytes": (header(tensor_count=1000), "claims 1000 tensors"),
    "too many keys": (header(key_count=1 << 62), "keys"),
    "key longer than the file": (header(U64 + bytes(20), key_count=1), "length of 9223372036854775808"),
    "string longer than the file": (
        header(KEY + struct.pack("<I", 8) + struct.pack("<Q", 999), key_count=1),
        "truncated",
    ),
    "empty key": (header(text("") + bytes(20), key_count=1), "a key is named ''"),
    "key of control characters": (header(text("a\x1b[2J") + bytes(20), key_count=1), "printable"),
    "key twice": (header((KEY + struct.pack("<IB", 0, 1) + bytes(0)) * 2 + bytes(8), key_count=2), "'k' occurs twice"),
    "unknown value type": (header(KEY + struct.pack("<I", 13) + bytes(9), key_count=1), "unknown value type 13"),
    "boolean 2": (header(KEY + struct.pack("<IB", 7, 2) + bytes(9), key_count=1), "neither 0 nor 1"),
    "nested array": (header(KEY + struct.pack("<II", 9, 9) + bytes(16), key_count=1), "array of arrays"),
    "array longer than the file": (
        header(KEY + struct.pack("<IIQ", 9, 4, 1 << 61) + bytes(16), key_count=1),
        "claims 2305843009213693952 items",
    ),
    "strings longer than the file": (
        header(KEY + struct.pack("<IIQ", 9, 8, 100) + bytes(16), key_count=1),
        "claims 100",
    ),
    "alignment 0": (header(text("general.alignment") + struct.pack("<II", 4, 0), key_count=1), "power of two"),
    "alignment 24": (header(text("general.alignment") + struct.pack("<II", 4, 24), key_count=1), "power of two"),
    "alignment u64": (header(text("general.alignment") + struct.pack("<IQ", 10, 32), key_count=1), "expected uint32"),
    "no dimensions": (header(tensors=tensor(dims=()) + bytes(32), tensor_count=1), "0 dimensions"),
    "five dimensions": (header(tensors=tensor(dims=(1,) * 5), tensor_count=1), "5 dimensions"),
    "dimension 0": (header(tensors=tensor(dims=(32, 0)), tensor_count=1), "no tensor has the shape"),
    "dimensions overflow": (header(tensors=tensor(dims=(1 << 40, 1 << 40)), tensor_count=1), "no tensor has the shape"),
    "offset overflow": (header(tensors=tensor(offset=(1 << 64) - 32), tensor_count=1), "is beyond any file"),
    "tensor twice": (header(tensors=tensor() * 2, tensor_count=2), "'t' occurs twice"),
}


@pytest.mark.parametrize(("content", "message"), INVALID.values(), ids=INVALID.keys())
def test_what_cannot_be_parsed_is_refused_with_a_reason(write, content, message):
    with pytest.raises(GGUFError, match=message) as error:
        read_gguf(write(content))
    assert "file.gguf" in str(error.value)


def test_missing_data_are_refused_when_they_are_asked_for(write):
    file = read_gguf(write(FILE[:-60]))
    assert file.packed("one").size == 102
    with pytest.raises(GGUFError, match="two: its data end at byte"):
        file.packed("two")
    with pytest.raises(GGUFError, match="no tensor three"):
        file.packed("three")


def test_a_file_that_vanished_is_refused_when_its_data_are_asked_for(write):
    path = write(FILE)
    file = read_gguf(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        file.packed("one")


def test_rows_that_are_not_whole_blocks_have_no_size(write):
    file = read_gguf(write(header(tensors=tensor(dims=(33,), kind=8), tensor_count=1)))
    assert "not a multiple of 32" in file.tensors["t"].problem


def test_a_split_into_one_part_is_whole(write):
    keys = text("split.no") + struct.pack("<IH", 2, 0) + text("split.count") + struct.pack("<IH", 2, 1)
    assert read_gguf(write(header(keys, key_count=2).ljust(96, b"\0"))).metadata["split.count"] == 1


def test_a_path_that_is_no_file_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read: a folder, not a GGUF file"):
        read_gguf(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_gguf(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")  # to open one would wait for ever
    with pytest.raises(InputError, match="not a regular file"):
        read_gguf(tmp_path / "pipe")


@given(content=st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_gguf_errors(tmp_path_factory, content):
    assert_contained(tmp_path_factory, b"GGUF\3\0\0\0" + content)


@given(st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.data())
def test_damaged_headers_raise_nothing_but_gguf_errors(tmp_path_factory, changes, data):
    content = bytearray(FILE)
    for position, byte in changes:
        content[position] = byte
    end = data.draw(st.integers(0, len(content)))
    assert_contained(tmp_path_factory, bytes(content[:end]) if data.draw(st.booleans()) else bytes(content))


def assert_contained(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        file = read_gguf(path)
        for name in file.tensors:
            file.packed(name)
    except GGUFError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20  # buffers and error texts; never what a damaged count claims


@pytest.mark.timeout(20)
def test_a_file_that_is_gone_or_replaced_when_data_are_asked_for_is_one_error(write):
    path = write(FILE)
    file = read_gguf(path)
    path.unlink()
    with pytest.raises(InputError, match=r"file\.gguf: cannot be read: No such file"):
        file.packed("one")
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"file\.gguf: cannot be read: a pipe"):
        file.packed("one")
    path.unlink()
    path.write_bytes(FILE[:-60])
    with pytest.raises(GGUFError, match="two: its data end at byte"):
        file.packed("two")
