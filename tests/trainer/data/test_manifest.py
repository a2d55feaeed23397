import dataclasses
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.trainer.data.manifest import manifest_digest, read_manifest
from conform.trainer.data.unigram import token_counts, unigram_loss
from conform.trainer.errors import DataError, InputError


@pytest.fixture
def folder(tmp_path, built_data):
    shutil.copytree(built_data, tmp_path / "data")
    return tmp_path / "data"


def change(folder, path, value):
    """Set the value at a path like "train.shards.0.name"; the value DELETED removes it."""
    data = json.loads((folder / "manifest.json").read_text())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    (folder / "manifest.json").write_text(json.dumps(data))


def test_reading_inverts_writing(folder):
    manifest = read_manifest(folder)
    assert manifest.to_json() == (folder / "manifest.json").read_text()
    assert manifest.train.tokens == sum(shard.tokens for shard in manifest.train.shards)
    assert dataclasses.replace(manifest) == manifest


def test_the_digest_is_the_sha256_of_the_file(folder):
    assert manifest_digest(folder) == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def test_shards_are_those_of_both_splits(folder):
    manifest = read_manifest(folder)
    assert manifest.shards == manifest.split("train").shards + manifest.split("held_out").shards
    assert {path.name for path in folder.glob("*.bin")} == {shard.name for shard in manifest.shards}


def test_the_unigram_perplexity_is_that_of_the_shards(folder):
    manifest = read_manifest(folder)
    train, held_out = (
        np.concatenate([np.fromfile(folder / shard.name, "<u2") for shard in manifest.split(name).shards])
        for name in ("train", "held_out")
    )
    counts = np.bincount(train, minlength=manifest.vocab) + 1
    expected = -np.log(counts[held_out] / counts.sum()).mean()
    assert manifest.unigram_perplexity == pytest.approx(math.exp(expected), rel=1e-7)
    assert manifest.bytes_per_token == manifest.held_out.bytes / len(held_out)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
def test_the_unigram_loss_is_a_cross_entropy(counts):
    train, held_out = np.array(counts, np.int64).T
    if held_out.sum():
        q = (train + 1) / (train + 1).sum()
        assert unigram_loss(train, held_out) == pytest.approx(-(held_out @ np.log(q)) / held_out.sum(), abs=1e-8)


def test_token_counts_add_up_over_shards(folder):
    manifest = read_manifest(folder)
    counts = token_counts(folder, manifest.train.shards, manifest.dtype, manifest.vocab)
    assert counts.sum() == manifest.train.tokens
    assert counts[manifest.bos_id] == counts[manifest.eos_id] == manifest.train.documents


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "reads format 1"),
        ("dtype", "int8", "expected one of uint16, uint32"),
        ("dtype", 7, "dtype = 7: expected a value of type str, found int"),
        ("vocab", 70000, "does not fit into uint16"),
        ("vocab", 0, "does not fit"),
        ("vocab", True, "vocab = True: expected a value of type int, found bool"),
        ("vocab", 2**70, "expected a whole number of at most 64 bits"),
        ("vocab", 2**60, "larger than any tokenizer"),
        ("bos_id", 512, "expected ids below vocab = 512"),
        ("eos_id", 2**40, "expected ids below vocab = 512"),
        ("unigram_loss", 1000.0, "expected a number from 0 to 64.0 nats"),
        ("unigram_loss", 10**4000, f"= 1{'0' * 79}: expected a number that fits"),
        ("held_out.bytes", 0, "held_out: documents = "),
        ("train.documents", 0, "train: documents = 0"),
        ("unigram_loss", "6", "unigram_loss = '6': expected a value of type float"),
        ("unigram_loss", float("nan"), "NaN is not a number that JSON knows"),
        ("train", [], "train: expected a table, found list"),
        ("train.tokens", -1, "expected a number from 0"),
        ("train.tokens", 5, "sum of its shards"),
        ("train.shards", [], "positive sum of its shards"),
        ("train.shards", {}, "train.shards = {}: expected a value of type list"),
        ("train.shards.0.name", "../../etc/passwd", "expected train-00000.bin"),
        ("train.shards.1.name", "train-00000.bin", "expected train-00001.bin"),
        ("train.shards.0.name", "held_out-00000.bin", "expected train-00000.bin"),
        ("train.shards.0.sha256", "xyz", "64 hexadecimal digits"),
        ("train.shards.0.tokens", 0, "at least one token"),
        ("train.shards.0.extra", 0, "unknown key train.shards[0].extra"),
        ("colour", "red", "unknown key colour"),
        ("skipped", {"a": "b"}, "skipped.a = 'b': expected a value of type int"),
    ],
)
def test_a_malformed_manifest_is_refused_by_key(folder, path, value, message):
    change(folder, path, value)
    with pytest.raises(InputError, match=r"manifest\.json: ") as caught:
        read_manifest(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: "):
        read_manifest(folder)


def test_a_vocabulary_that_would_exhaust_memory_is_refused(folder):
    change(folder, "dtype", "uint32")
    change(folder, "vocab", 2**32 - 1)
    with pytest.raises(DataError, match=r"vocab = 4294967295: .*larger than any tokenizer"):
        read_manifest(folder)


def test_a_folder_without_manifest_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match="conform data build"):
        read_manifest(tmp_path)


def test_a_gigantic_manifest_is_not_read(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="larger than 268435456 bytes; expected a manifest"):
        read_manifest(folder)
