import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from conform.core.checkpoint.safetensors_header import read_safetensors_header
from conform.core.errors import CheckpointError

VALID = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}, {"who": "me"})


def encode(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def write(tmp_path):
    def run(content):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return path

    return run


def test_every_tensor_is_described(write):
    tensors = read_safetensors_header(write(VALID))
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in tensors.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("F16", (4,), 8),
    }
    start = tensors["a"].offset
    assert np.frombuffer(VALID[start : start + 24], "<f4").tolist() == [0, 1, 2, 3, 4, 5]


INVALID = {
    "empty": (b"", "truncated"),
    "seven bytes": (bytes(7), "truncated"),
    "header longer than the file": (struct.pack("<Q", 1 << 60) + b"{}", "truncated"),
    "no JSON": (encode(b"{nonsense"), "not JSON"),
    "bytes that are no UTF-8": (encode(b'{"\xff": 1}'), "not JSON"),
    "deep JSON": (encode(b"[" * 100_000), "not JSON"),
    "a list": (encode([1]), "its header is a list"),
    "name twice": (encode(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    "control character in a name": (encode({"a\x1b[2J": entry()}, bytes(8)), "printable"),
    "no dtype": (encode({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "expected dtype, shape"),
    "entry is no table": (encode({"a": 5}), "expected dtype, shape"),
    "unknown dtype": (encode({"a": entry("F12")}, bytes(8)), "unknown dtype 'F12'"),
    "dtype is a list": (encode({"a": entry(["F32"])}, bytes(8)), "unknown dtype"),
    "negative dimension": (encode({"a": entry(shape=(-2,))}, bytes(8)), "shape is not a list"),
    "fractional dimension": (encode({"a": entry(shape=(2.0,))}, bytes(8)), "shape is not a list"),
    "boolean dimension": (encode({"a": entry(shape=(True,))}, bytes(8)), "shape is not a list"),
    "too many dimensions": (encode({"a": entry(shape=(1,) * 9)}, bytes(8)), "shape is not a list"),
    "falling offsets": (encode({"a": entry(offsets=(8, 0))}, bytes(8)), "rising"),
    "three offsets": (encode({"a": entry(offsets=(0, 4, 8))}, bytes(8)), "rising"),
    "size does not fit the shape": (encode({"a": entry(shape=(3,))}, bytes(8)), "takes 12"),
    "shape overflows": (encode({"a": entry(shape=(1 << 62, 1 << 62))}, bytes(8)), "takes"),
    "data missing": (encode({"a": entry()}, bytes(4)), "truncated: the tensors end"),
    "data after the last": (encode({"a": entry()}, bytes(12)), "4 bytes after the last tensor"),
    "data before the first": (encode({"a": entry(offsets=(4, 12))}, bytes(12)), "4 bytes before it"),
    "overlap": (encode({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "b: its data overlap"),
}


@pytest.mark.parametrize(("content", "message"), INVALID.values(), ids=INVALID.keys())
def test_a_malformed_header_is_refused_with_a_reason(write, content, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_safetensors_header(write(content))
    assert "model.safetensors" in str(error.value)


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_raise_nothing_but_checkpoint_errors(tmp_path_factory, changes):
    content = bytearray(VALID)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_safetensors_header(path)
    except CheckpointError:
        return
    assert all(tensor.offset + tensor.nbytes <= len(content) for tensor in tensors.values())


def test_many_names_take_no_longer_than_few(write):
    header = b"{" + b",".join(b'"n%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(50_000))
    with pytest.raises(CheckpointError, match="'n0' occurs twice"):
        read_safetensors_header(write(encode(header + b',"n0":0}')))
    assert len(read_safetensors_header(write(encode(header + b"}")))) == 50_000


def test_a_gguf_file_is_called_by_its_name(write):
    with pytest.raises(CheckpointError, match="is a GGUF file, not a safetensors checkpoint"):
        read_safetensors_header(write(b"GGUF\x03\0\0\0" + bytes(100)))
