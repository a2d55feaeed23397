import json

import pytest

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


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds neither .*index\.json$"):
        read_safetensors_folder(tmp_path)
