"""The examples run as they are shown, one after the other, on a model that is made on the spot."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.trainer.checkpoints.huggingface import huggingface_config
from conform.trainer.tokenizer.recipe import train_tokenizer

ROOT = Path(__file__).parents[2]


def run_example(name, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    """The spec file that the first example writes."""
    path = tmp_path_factory.mktemp("contract") / "small.toml"
    run_example("write_a_contract.py", path)
    return path


@pytest.fixture(scope="module")
def exported(contract, tmp_path_factory):
    """A checkpoint of random weights and what the second example makes of it: the folder, the output."""
    folder, rng = tmp_path_factory.mktemp("checkpoint"), np.random.default_rng(0)
    spec = load_contract(str(contract))
    shapes = {tensor.name: tensor.shape for tensor in inventory(spec.model)}
    weights = {name: rng.normal(1 if len(shape) == 1 else 0, 0.05, shape) for name, shape in shapes.items()}
    save_file({name: values.astype(np.float32) for name, values in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(huggingface_config(spec)))
    train_tokenizer([str(ROOT / "docs")], 512, folder)
    return folder, run_example("export_and_verify.py", folder)


def test_every_example_is_run_here():
    tested = {"write_a_contract.py", "export_and_verify.py", "judge_runtime.py"}
    tested |= {"session_server.py", "numpy_llama.py"}  # judged in tests/parity/drivers/test_session_servers.py
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == tested


def test_a_contract_is_written_and_read_back(contract):
    assert load_contract(str(contract)).model.layers == 2


def test_every_exported_file_conforms(exported):
    folder, output = exported
    assert len(list(folder.glob("*.gguf"))) == 2
    assert output.count("  conforms") == 2


@pytest.mark.go
def test_goref_conforms(exported):
    folder, _ = exported
    output = run_example("judge_runtime.py", next(folder.glob("*-f16.gguf")))
    assert output.splitlines()[-1] == "conforms"
