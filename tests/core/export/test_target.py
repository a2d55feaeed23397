import os

import pytest

from conform.core.errors import PlanError
from conform.core.export.target import export_targets


def targets(tmp_path, quants, output, name="nano+ternary"):
    found = export_targets(quants, name, tmp_path / "checkpoint", output and str(output))
    return {quant: str(path.relative_to(tmp_path)) for quant, path in found.items()}


def test_files_stand_beside_the_checkpoint(tmp_path):
    assert targets(tmp_path, ["f16", "i2_s"], None) == {
        "f16": "checkpoint/nano+ternary-f16.gguf",
        "i2_s": "checkpoint/nano+ternary-i2_s.gguf",
    }


def test_an_output_is_a_file_or_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    assert targets(tmp_path, ["f16"], tmp_path / "x.gguf") == {"f16": "x.gguf"}
    assert targets(tmp_path, ["f16"], tmp_path / "folder") == {"f16": "folder/nano+ternary-f16.gguf"}
    assert targets(tmp_path, ["f16", "f32"], tmp_path / "new")["f32"] == "new/nano+ternary-f32.gguf"
    assert targets(tmp_path, ["f16"], f"{tmp_path}/new/")["f16"] == "new/nano+ternary-f16.gguf"


def test_an_older_export_may_be_replaced_and_nothing_else(tmp_path):
    (tmp_path / "old.gguf").write_bytes(b"GGUF....")
    assert targets(tmp_path, ["f16"], tmp_path / "old.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(PlanError, match="will not be overwritten"):
        targets(tmp_path, ["f16"], tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match="is a file, but"):
        targets(tmp_path, ["f16", "f32"], tmp_path / "old.gguf")


def test_a_pipe_in_the_files_place_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match="is a device or a pipe"):
        targets(tmp_path, ["f16"], tmp_path / "pipe")


def test_a_folder_in_the_files_place_is_refused(tmp_path):
    (tmp_path / "checkpoint" / "nano+ternary-f16.gguf").mkdir(parents=True)
    with pytest.raises(PlanError, match="is a folder"):
        targets(tmp_path, ["f16"], None)


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "line\nbreak"])
def test_a_contracts_name_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(PlanError, match="cannot be made into a file name"):
        targets(tmp_path, ["f16"], None, name)
    assert targets(tmp_path, ["f16"], tmp_path / "x.gguf", name) == {"f16": "x.gguf"}
