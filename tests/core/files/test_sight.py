import gzip
import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from conform.core.files.sight import HEAD, mistaken

SEEN = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a GGUF file": b"GGUF\x03\0\0\0" + bytes(100),
    "a safetensors file": save({"w": np.ones(3, np.float32)}),
    "a zip archive, in which PyTorch keeps pickles": b"PK\x03\x04" + bytes(100),
    "a pickle": pickle.dumps({"w": [1.0]}, protocol=2),
    "compressed by gzip": gzip.compress(b"text"),
    "compressed by zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "a web page": b"\n<!DOCTYPE HTML><title>404</title>",
    "a tiktoken vocabulary": b"IQ== 0\nIg== 1\nIw== 2\n",
    "a JSON text": json.dumps({"version": "1.0", "model": {"type": "BPE"}}).encode(),
}


@pytest.mark.parametrize("what", SEEN)
def test_a_file_is_recognised_by_its_first_bytes(what):
    assert mistaken(SEEN[what][:HEAD], "a letter").startswith(f"is {what}, not a letter")


@pytest.mark.parametrize("length", [0x280, 0x380, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_safetensors(length):
    head = struct.pack("<Q", length) + b'{"w":{"dtype":'
    assert mistaken(head, "a letter").startswith("is a safetensors file")


@pytest.mark.parametrize("head", [b"", b"\0", b"text", bytes(HEAD), b"\x0a\x0e\x0a\x05<unk>"])
def test_anything_else_is_left_to_its_reader(head):
    assert mistaken(head, "a letter") == ""


def test_what_to_do_follows_from_what_it_is_or_from_who_asks():
    assert mistaken(b"GGUF", "a letter", "write one") == "is a GGUF file, not a letter; write one"
    assert mistaken(b"\x80\x02}", "a letter", "write one").endswith("because conform never unpickles")
