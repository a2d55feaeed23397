import hashlib
import json
import shutil

import pytest

from conform.trainer.data.verify import verify_data
from conform.trainer.errors import InputError


@pytest.fixture
def folder(tmp_path, built_data):
    shutil.copytree(built_data, tmp_path / "data")
    return tmp_path / "data"


def flip(path, place=10):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite(folder, **changes):
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, **changes}))


def rehash(folder, name):
    """Make the manifest agree with a shard that was changed."""
    data = json.loads((folder / "manifest.json").read_text())
    for split in ("train", "held_out"):
        for shard in data[split]["shards"]:
            if shard["name"] == name:
                shard["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(data))


def where(folder):
    return [(finding.severity, finding.where) for finding in verify_data(folder)]


def test_a_finished_build_conforms(folder):
    assert verify_data(folder) == []


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00003.bin", "held_out-00000.bin", "tokenizer.model"])
def test_a_flipped_bit_is_found_by_name(folder, name):
    flip(folder / name)
    assert where(folder) == [("error", name)]


@pytest.mark.parametrize("name", ["train-00001.bin", "held_out-00000.bin", "tokenizer.model"])
def test_a_missing_file_is_found_by_name(folder, name):
    (folder / name).unlink()
    assert where(folder) == [("error", name)]


def test_a_truncated_shard_is_found_by_name(folder):
    (folder / "train-00002.bin").write_bytes((folder / "train-00002.bin").read_bytes()[:-2])
    (finding,) = verify_data(folder)
    assert finding.where == "train-00002.bin"
    assert "found 1998 bytes" in finding.found


def test_everything_wrong_is_found_at_once(folder):
    flip(folder / "train-00000.bin")
    (folder / "train-00001.bin").unlink()
    (folder / "tokenizer.model").unlink()
    (folder / "train-00099.bin").touch()
    assert {name for _, name in where(folder)} == {
        "train-00000.bin",
        "train-00001.bin",
        "tokenizer.model",
        "train-00099.bin",
    }


def test_a_foreign_shard_is_an_error_and_any_other_file_a_warning(folder):
    (folder / "extra.bin").touch()
    (folder / "notes.txt").touch()
    assert where(folder) == [("error", "extra.bin"), ("warning", "notes.txt")]


def test_swapped_shards_are_found(folder):
    first, second = folder / "train-00000.bin", folder / "train-00001.bin"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    assert where(folder) == [("error", "train-00000.bin"), ("error", "train-00001.bin")]


def test_ids_outside_the_vocabulary_are_found_even_with_a_right_hash(folder):
    path = folder / "train-00000.bin"
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    rehash(folder, path.name)
    (finding,) = verify_data(folder)
    assert (finding.where, finding.expected, finding.found) == (path.name, "ids below 512", "65535")


def test_changed_tokens_are_found_even_with_a_right_hash(folder):
    path = folder / "held_out-00000.bin"
    path.write_bytes(b"\x01\x00" * (path.stat().st_size // 2))
    rehash(folder, path.name)
    assert {name for _, name in where(folder)} == {"held_out.documents", "unigram_loss"}


def test_a_changed_unigram_loss_is_found(folder):
    rewrite(folder, unigram_loss=1.0)
    assert where(folder) == [("error", "unigram_loss")]


def test_a_wrong_semantic_digest_is_found(folder):
    rewrite(folder, tokenizer_semantic_digest="0" * 64)
    assert where(folder) == [("error", "tokenizer_semantic_digest")]


@pytest.mark.parametrize(("key", "value"), [("vocab", 513), ("bos_id", 3), ("eos_id", 4)])
def test_facts_that_are_not_the_tokenizers_are_found(folder, key, value):
    rewrite(folder, **{key: value})
    assert ("error", key) in where(folder)


def test_a_folder_that_is_no_build_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        verify_data(tmp_path)
