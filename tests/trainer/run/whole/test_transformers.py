"""Another implementation opens a checkpoint and computes the same: runs where transformers is installed."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conform.contract.load import load_contract
from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint
from conform.parity.candidate import Source
from conform.parity.reference.foreign_program import compute
from conform.parity.rungs.source import judge_source
from conform.parity.source_check import compare_sources, source_sequences
from conform.trainer.distributed.world import join
from conform.trainer.model.model import Llama
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.request import TrainRequest, load_request

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture
def trained(data, contracts, tmp_path):
    """trained(name): the checkpoint of a short run under that contract, and the contract's file."""

    def train(name):
        values = {"steps": 3, "batch": 8, "sequence": 32, "lr": 1e-2, "dtype": "f32"}
        contract = contracts / f"{name}.toml"
        loaded = load_request(TrainRequest(tmp_path / "run", False, str(contract), data, None, values))
        return launch(loaded, join(loaded.settings), SilentView()).checkpoint, contract

    return train


def test_transformers_computes_the_same_logits_from_a_checkpoint(trained):
    path, contract = trained("dense")
    theirs = transformers.LlamaForCausalLM.from_pretrained(path).eval()
    ours = Llama(load_contract(str(contract)).model)
    ours.load_state_dict(load_file(path / "model.safetensors"))
    tokens = torch.randint(0, 512, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dense", "ternary"])
def test_the_rung_source_passes_on_a_trained_checkpoint(trained, name):
    path, _ = trained(name)
    checkpoint = open_checkpoint(path)
    source = Source(checkpoint, contract_of(checkpoint, None))
    sequences = source_sequences(source, None, 32)
    with torch._dynamo.config.patch(disable=True):  # what ternarises would be compiled first
        _, logits = compute(path, [sequence.ids for sequence in sequences])
    result = judge_source(compare_sources(source, sequences, np.split(logits, 2), "transformers"))
    assert source.trained_here
    assert (result.status, result.reason) == ("pass", "")
