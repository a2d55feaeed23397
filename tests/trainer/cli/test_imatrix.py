import dataclasses
import json
import struct

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from conform.contract.dump import dump_contract
from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.core.errors import ConformError
from conform.trainer.cli.imatrix import imatrix

NANO = load_contract("nano")
SPEC = dataclasses.replace(
    NANO.model, layers=1, hidden=32, heads=4, kv_heads=1, head_dim=8, rope_dim=8, ffn=64, vocab=512, context=32
)
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    random = np.random.default_rng(0)
    weights = {spec.name: random.normal(0, 0.1, spec.shape).astype("f4") for spec in inventory(SPEC)}
    save_file(weights, folder / "model.safetensors")
    (tmp_path / "mine.toml").write_text(dump_contract(dataclasses.replace(NANO, model=SPEC)))
    return folder


@pytest.fixture
def measure(tmp_path, checkpoint, built_data):
    def run(output="out.imatrix", *options):
        arguments = ["measure", str(checkpoint), "--data", str(built_data), "--contract", str(tmp_path / "mine.toml")]
        arguments += ["--chunks", "3", "-o", str(tmp_path / output), *options]
        return CliRunner().invoke(imatrix, arguments, catch_exceptions=False, standalone_mode=False)

    return run


def change(checkpoint, **tensors):
    weights = {**load_file(checkpoint / "model.safetensors"), **tensors}
    save_file(weights, checkpoint / "model.safetensors")


def test_a_matrix_is_measured(measure, tmp_path):
    assert "7 tensors over 96 tokens in 3 sequences" in measure().output
    assert (tmp_path / "out.imatrix").read_bytes()[:4] == b"GGUF"


def test_an_older_matrix_may_be_replaced_and_nothing_else(measure, tmp_path):
    measure()
    measure()
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(ConformError, match=r"config\.json: exists and is not a GGUF file"):
        measure("config.json")
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_checkpoint_that_is_not_the_contracts_is_not_measured(measure, checkpoint, tmp_path):
    bias = {QUERY.replace("weight", "bias"): np.zeros(32, "f4")}
    change(checkpoint, **{QUERY: np.zeros((16, 32), "f4"), **bias})
    result = measure()
    assert result.return_value == 1
    assert "shape 16×32" in result.output
    assert "q_proj.bias" in result.output
    assert not (tmp_path / "out.imatrix").exists()


def test_weights_that_are_not_finite_are_refused_by_name(measure, checkpoint):
    change(checkpoint, **{QUERY: np.full((32, 32), np.nan, "f4")})
    with pytest.raises(ConformError, match=rf"{QUERY}: the value at \[0, 0\] is nan"):
        measure()


def test_a_matrix_that_holds_infinity_is_shown_as_json(tmp_path):
    name = b"blk.0.attn_q.weight"
    values = np.array([1, np.inf], "<f4").tobytes()
    content = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 2) + values
    (tmp_path / "i.dat").write_bytes(content)
    arguments = ["show", str(tmp_path / "i.dat"), "--json=-"]
    result = CliRunner().invoke(imatrix, arguments, catch_exceptions=False, standalone_mode=False)
    assert json.loads(result.output)["tensors"][0]["largest"] is None
