import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform.trainer.data.manifest import Shard
from conform.trainer.data.shards import ShardWriter, open_shard
from conform.trainer.errors import DataError

pytestmark = pytest.mark.usefixtures("no_fsync")


def read(folder, shards, dtype="uint16"):
    return np.concatenate([np.fromfile(folder / shard.name, f"<{dtype[0]}{int(dtype[4:]) // 8}") for shard in shards])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 50), max_size=10), st.integers(1, 17), st.sampled_from(["uint16", "uint32"]))
def test_appended_tokens_come_back_in_shards_of_the_length_asked_for(tmp_path_factory, lengths, shard_tokens, dtype):
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, "train", shard_tokens, dtype)
    tokens = np.arange(sum(lengths), dtype=dtype)
    completed = [writer.append(part) for part in np.split(tokens, np.cumsum(lengths))[: len(lengths)]]
    assert sum(completed) == len(tokens) // shard_tokens
    assert writer.tokens == len(tokens)
    shards = writer.finish()
    assert [shard.tokens for shard in shards[:-1]] == [shard_tokens] * (len(shards) - 1)
    if shards:
        assert read(folder, shards, dtype).tolist() == tokens.tolist()
    for shard in shards:
        assert hashlib.sha256((folder / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert sorted(path.name for path in folder.iterdir()) == sorted(shard.name for shard in shards)


def test_bytes_are_little_endian_and_named_by_number(tmp_path):
    writer = ShardWriter(tmp_path, "held_out", 2, "uint16")
    writer.append(np.array([0x0102, 3, 0xFFFF], np.uint16))
    assert [shard.name for shard in writer.finish()] == ["held_out-00000.bin", "held_out-00001.bin"]
    assert (tmp_path / "held_out-00000.bin").read_bytes() == b"\x02\x01\x03\x00"


def test_a_shard_has_its_name_only_when_it_is_complete(tmp_path):
    writer = ShardWriter(tmp_path, "train", 10, "uint16")
    writer.append(np.arange(5, dtype=np.uint16))
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == [".train-00000.bin.part"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
def test_a_resumed_writer_goes_on_where_it_was_synced(tmp_path_factory, before, after, shard_tokens):
    folder = tmp_path_factory.mktemp("shards")
    tokens = np.arange(before + 7, dtype=np.uint16)
    first = ShardWriter(folder, "train", shard_tokens, "uint16")
    first.append(tokens[:before])
    shards, open_tokens, open_sha256 = list(first.shards), first.open_tokens, first.open_sha256
    first.append(np.full(after, 9999, np.uint16))  # written after the sync, so to be cut off
    first.close()
    second = ShardWriter(folder, "train", shard_tokens, "uint16")
    second.resume(shards, open_tokens, open_sha256)
    second.append(tokens[before:])
    finished = second.finish()
    assert read(folder, finished).tolist() == tokens.tolist()
    assert all(hashlib.sha256((folder / s.name).read_bytes()).hexdigest() == s.sha256 for s in finished)
    assert len(list(folder.iterdir())) == len(finished)


def test_a_hard_link_of_the_open_shard_is_not_written_through(tmp_path):
    writer = ShardWriter(tmp_path, "train", 9, "uint16")
    writer.append(np.arange(4, dtype=np.uint16))
    writer.close()
    os.link(tmp_path / ".train-00000.bin.part", tmp_path / "backup")
    again = ShardWriter(tmp_path, "train", 9, "uint16")
    again.resume([], 4, writer.open_sha256)
    again.append(np.arange(4, 7, dtype=np.uint16))
    assert read(tmp_path, again.finish()).tolist() == list(range(7))
    assert np.fromfile(tmp_path / "backup", "<u2").tolist() == list(range(4))


@pytest.mark.parametrize("lost", ["train-00000.bin", ".train-00001.bin.part"])
def test_resuming_without_what_was_synced_is_refused_by_name(tmp_path, lost):
    writer = ShardWriter(tmp_path, "train", 3, "uint16")
    writer.append(np.arange(5, dtype=np.uint16))
    writer.close()
    (tmp_path / lost).write_bytes(b"\0\0")
    with pytest.raises(DataError, match=lost):
        ShardWriter(tmp_path, "train", 3, "uint16").resume(writer.shards, 2, writer.open_sha256)


@pytest.mark.parametrize(
    ("content", "found"), [(None, "missing"), (b"", "0 bytes"), (b"abc", "3 bytes"), (b"abcdef", "6 bytes")]
)
def test_a_shard_of_the_wrong_size_is_refused_by_name(tmp_path, content, found):
    if content is not None:
        (tmp_path / "train-00000.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"train-00000\.bin: expected 4 bytes .* found {found}"):
        open_shard(tmp_path, Shard("train-00000.bin", 2, ""), "uint16")
