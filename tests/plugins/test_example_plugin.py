"""A third party's distribution, really installed by pip, seen by a conform of its own process."""

import json

import gguf
import numpy as np
from safetensors.numpy import load_file

from conform.core.gguf.read import read_gguf

from .conftest import run_conform


def test_it_is_listed_with_its_version(example_plugin):
    done = run_conform("plugins", "--json=-", installed=example_plugin)
    (plugin,) = [p for p in json.loads(done.stdout)["plugins"] if p["plugin"] == "example-plugin:formats"]
    assert (plugin["version"], plugin["quantizers"], plugin["metadata_writers"]) == (
        "1.4.0",
        ["q4_1"],
        ["example-maker"],
    )


def test_it_is_certified(example_plugin, tmp_path):
    receipt = tmp_path / "receipt.json"
    done = run_conform("plugins", "certify", "q4_1", "--json", receipt, installed=example_plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads(receipt.read_text())["plugin"]["files"]) == ["example_plugin.py"]
    assert run_conform("plugins", "receipt", receipt, installed=example_plugin).returncode == 0


def test_a_checkpoint_is_exported_with_it(example_plugin, small_checkpoint, tmp_path):
    out = tmp_path / "small-q4_1.gguf"
    done = run_conform("export", small_checkpoint, "--quant", "q4_1", "-o", out, installed=example_plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    file = read_gguf(out)
    assert file.metadata["example.maker"] == "example-plugin, for small"
    assert file.tensors["blk.0.ffn_down.weight"].ggml_type == gguf.GGMLQuantizationType.Q4_1
    source = load_file(small_checkpoint / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    packed = np.asarray(file.packed("blk.0.ffn_down.weight")).reshape(len(source), -1)
    decoded = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    assert np.sqrt(((decoded - source) ** 2).mean()) < 0.1


def test_the_exported_file_is_verified_by_its_decoder(example_plugin, small_checkpoint, tmp_path):
    out = tmp_path / "small-q4_1.gguf"
    run_conform("export", small_checkpoint, "--quant", "q4_1", "-o", out, installed=example_plugin)
    done = run_conform("verify", out, installed=example_plugin)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_it_the_quantizer_is_refused_and_no_file_is_left(small_checkpoint, tmp_path):
    done = run_conform("export", small_checkpoint, "--quant", "q4_1", "-o", tmp_path / "x.gguf", installed=tmp_path)
    assert done.returncode == 2
    assert "q4_1: no such quantizer" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_disabled_it_is_not_loaded(example_plugin, monkeypatch):
    monkeypatch.setenv("CONFORM_DISABLE_PLUGINS", "example-plugin")
    assert "q4_1" not in run_conform("plugins", installed=example_plugin).stdout
