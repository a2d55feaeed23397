import json
import re

import pytest
from click.testing import CliRunner

from conform.contract.cli.contract import contract
from conform.contract.load import load_contract


def run(*arguments):
    return CliRunner().invoke(contract, arguments, standalone_mode=False, catch_exceptions=False)


def test_list_as_json_is_for_machines():
    listed = json.loads(run("list", "--json").output)
    assert {"name": "nano", "parameters": 7997952}.items() <= next(c for c in listed if c["name"] == "nano").items()


def test_show_prints_a_spec_that_loads(tmp_path):
    shown = run("show", "base-1.5b").output
    (tmp_path / "copy.toml").write_text(shown)
    assert run("diff", "base-1.5b", str(tmp_path / "copy.toml")).return_value == 0


def test_diff_names_what_differs():
    result = run("diff", "nano", "nano+bitnet")
    assert result.return_value == 1
    assert "model.sub_norms" in result.output


@pytest.mark.parametrize("low_high", ["5:", "a:b", "1:2:3", ""])
def test_a_malformed_range_is_a_usage_error(low_high):
    from click import BadParameter

    options = ["--params", "1e9", "--hidden", "2048", "--heads", "16", "--kv-heads", "4", "--ffn-mult", "4"]
    with pytest.raises(BadParameter, match="LOW:HIGH"):
        run("solve", *options, "--layers", low_high)


def test_solve_lists_parameters_and_obstacles():
    options = ["--params", "1.5e9", "--hidden", "2048:2560", "--heads", "16:20", "--kv-heads", "4:8"]
    result = run("solve", *options, "--layers", "24:28", "--ffn-mult", "4", "--limit", "1", "--json")
    (nearest,) = json.loads(result.output)
    assert nearest["parameters"] == 1525254144
    assert nearest["obstacles"][0]["blocking"] is False


def test_infer_writes_a_spec_that_loads(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 8,
                "vocab_size": 512,
                "max_position_embeddings": 128,
            }
        )
    )
    shown = run("infer", str(tmp_path), "-o", str(tmp_path / "mine.toml")).output
    assert "layers = 2" in run("show", str(tmp_path / "mine.toml")).output
    assert re.search(r"^model\.hidden +256 +hidden_size *$", shown, re.MULTILINE)
    assert re.search(
        r"^model\.norm_eps +1e-06 +rms_norm_eps is absent; default of transformers 5\.24", shown, re.MULTILINE
    )
    report = json.loads(run("infer", str(tmp_path), "--json").output)
    assert report["contract"]["model"]["layers"] == 2
    assert {"field": "model.layers", "value": 2, "source": "num_hidden_layers"} in report["origins"]
    assert report["stored"]["weights"] == "plain"


def test_infer_reads_a_gguf_file_that_carries_no_contract(tmp_path):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    for key, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 2,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("tokenizer.ggml.model", "llama")
    for name, shape in {"token_embd": (100, 32), "blk.0.attn_q": (32, 32)}.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    asked = ("infer", str(tmp_path / "theirs.gguf"), "-o", str(tmp_path / "theirs.toml"), "--name", "theirs")
    assert run(*asked).return_value == 0
    implied = load_contract(str(tmp_path / "theirs.toml"))
    assert (implied.name, implied.model.vocab, implied.model.head_dim) == ("theirs", 100, 16)
    assert implied.model.tied_embeddings
