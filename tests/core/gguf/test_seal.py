import hashlib

import numpy as np
import pytest

from conform.core.errors import PluginError
from conform.core.gguf.read import read_gguf
from conform.core.gguf.seal import (
    PROVENANCE_KEY,
    SEAL_KEYS,
    TENSORS_KEY,
    UNKNOWN_SHA256,
    VOCABULARY_KEY,
    packed_sha256,
    provenance_digest,
    refuse_seal_keys,
    seal,
    tensor_line,
    vocabulary_digest,
)
from conform.core.gguf.write import TensorEntry, encode_header
from conform.core.metadata import f32_array, string, string_array, u32

METADATA = {
    "general.name": string("x"),
    "tokenizer.ggml.tokens": string_array(["a", "b"]),
    "tokenizer.ggml.scores": f32_array([0.0, -1.0]),
    "conform.checkpoint.digest": string("c" * 64),
}
LINES = (tensor_line("t", 0, (2, 3), "x86", "a" * 64),)


def test_a_line_says_what_a_tensor_is():
    assert tensor_line("t", 1, (2, 3), "arm", "a" * 64) == "a" * 64 + "  t f16 2x3"
    assert tensor_line("t", 36, (128,), "arm", "a" * 64) == "a" * 64 + "  t i2_s/arm 128"
    assert tensor_line("t", 777, (1,), "arm", "a" * 64) == "a" * 64 + "  t 777 1"


def test_a_seal_can_be_recomputed_by_hand():
    def entry(key, content):
        return hashlib.sha256(len(key).to_bytes(8, "little") + key.encode() + content).hexdigest()

    def text(value):
        return len(value).to_bytes(8, "little") + value.encode()

    kind = (8).to_bytes(4, "little")
    lines = {
        "tokenizer.ggml.scores": entry(
            "tokenizer.ggml.scores",
            bytes.fromhex("09000000060000000200000000000000") + bytes.fromhex("00000000000080bf"),
        ),
        "tokenizer.ggml.tokens": entry(
            "tokenizer.ggml.tokens", bytes.fromhex("09000000080000000200000000000000") + text("a") + text("b")
        ),
    }
    listed = "".join(f"{digest}  {key}\n" for key, digest in lines.items())
    vocabulary = hashlib.sha256(listed.encode()).hexdigest()
    ours = {
        "conform.checkpoint.digest": entry("conform.checkpoint.digest", kind + text("c" * 64)),
        TENSORS_KEY: entry(TENSORS_KEY, bytes.fromhex("09000000080000000100000000000000") + text(LINES[0])),
        VOCABULARY_KEY: entry(VOCABULARY_KEY, kind + text(vocabulary)),
    }
    provenance = hashlib.sha256("".join(f"{digest}  {key}\n" for key, digest in ours.items()).encode()).hexdigest()
    sealed = seal(METADATA, LINES)
    assert (sealed[VOCABULARY_KEY].value, sealed[PROVENANCE_KEY].value) == (vocabulary, provenance)


def test_the_reader_finds_the_digests_that_were_written(tmp_path):
    sealed = seal(METADATA, LINES)
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header(sealed, [TensorEntry("t", (2, 3), 0, 0)], 32) + bytes(32))
    file = read_gguf(path)
    assert file.metadata[TENSORS_KEY] == list(LINES)
    assert file.metadata[VOCABULARY_KEY] == vocabulary_digest(file.key_digests)
    assert file.metadata[PROVENANCE_KEY] == provenance_digest(file.key_digests)


def test_a_seal_replaces_an_older_one_and_keeps_its_length():
    once = seal(METADATA, LINES)
    assert seal(once, LINES) == once
    unknown = seal(METADATA, [tensor_line("t", 0, (2, 3), "x86", UNKNOWN_SHA256)])
    assert unknown != once
    assert len(encode_header(unknown, [], 32)) == len(encode_header(once, [], 32))
    assert list(once)[-3:] == list(SEAL_KEYS)


def test_a_tensor_is_hashed_in_pieces():
    packed = np.arange((8 << 20) + 5, dtype=np.uint32).astype(np.uint8)
    assert packed_sha256(packed) == hashlib.sha256(packed.tobytes()).hexdigest()


@pytest.mark.parametrize("key", SEAL_KEYS)
def test_no_writer_may_set_the_seal(key):
    refuse_seal_keys(METADATA)
    with pytest.raises(PluginError, match=f"sets {key}"):
        refuse_seal_keys({**METADATA, key: u32(1)})
