import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from conform.core.checkpoint.safetensors_index import read_safetensors_folder
from conform.core.errors import CheckpointError, InputError


def write_index(folder, shard):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    return folder


@pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", ".", "a\0b", "a/b"])
def test_a_shard_is_a_file_in_the_same_folder(tmp_path, shard):
    with pytest.raises(CheckpointError, match="expected a file in the same folder"):
        read_safetensors_folder(write_index(tmp_path, shard))


@pytest.mark.parametrize(("shard", "reason"), [("gone.safetensors", "No such file"), ("a" * 5000, "name too long")])
def test_a_shard_that_cannot_be_there_is_named(tmp_path, shard, reason):
    with pytest.raises(InputError, match=rf"a.*cannot be read: .*{reason}|gone.*{reason}"):
        read_safetensors_folder(write_index(tmp_path, shard))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_a_pickle_is_named_and_never_loaded(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match=rf"but {name}, a pickle, which conform never loads: convert it"):
        read_safetensors_folder(tmp_path)


def write_shard(folder, name, *tensors):
    save_file({tensor: np.ones(2, np.float32) for tensor in tensors}, folder / name)


def test_the_only_file_may_have_any_name(tmp_path):
    write_shard(tmp_path, "mine.safetensors", "w")
    write_shard(tmp_path, "adapter_model.safetensors", "a")
    write_shard(tmp_path, ".unfinished.safetensors", "u")
    assert set(read_safetensors_folder(tmp_path)) == {"w"}


def test_shards_called_model_come_before_a_file_of_another_name(tmp_path):
    write_shard(tmp_path, "consolidated.safetensors", "c")
    write_shard(tmp_path, "model-00001-of-00001.safetensors", "w")
    assert set(read_safetensors_folder(tmp_path)) == {"w"}


def test_several_checkpoints_in_one_folder_are_listed_and_none_is_guessed(tmp_path):
    write_shard(tmp_path, "a.safetensors", "w")
    write_shard(tmp_path, "b-00001-of-00002.safetensors", "w")
    with pytest.raises(
        CheckpointError, match=r"holds 2 checkpoints, a\.safetensors, b-00001-of-00002\.safetensors; give"
    ):
        read_safetensors_folder(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for number in (1, 2):
        write_shard(tmp_path, f"model-0000{number}-of-00002.safetensors", "w", f"v{number}")
    with pytest.raises(
        CheckpointError, match=r"model-00002-of-00002.*: holds w, which model-00001-of-00002.* holds too"
    ):
        read_safetensors_folder(tmp_path)


def test_more_shards_than_any_checkpoint_has_are_refused(tmp_path):
    write_shard(tmp_path, "model-00001-of-99999.safetensors", "w")
    with pytest.raises(CheckpointError, match="is one of 99999 shards; expected at most 10000"):
        read_safetensors_folder(tmp_path)


def test_an_index_of_another_name_is_not_guessed(tmp_path):
    (tmp_path / "model.fp16.safetensors.index.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"but model\.fp16\.safetensors\.index\.json, an index of another name: give"
    ):
        read_safetensors_folder(tmp_path)


def test_a_folder_of_gguf_files_is_no_checkpoint(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        CheckpointError, match=r"but x\.gguf, a GGUF file: give the checkpoint that it was exported from"
    ):
        read_safetensors_folder(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds neither .*index\.json$"):
        read_safetensors_folder(tmp_path)
