"""Another implementation opens a checkpoint and computes the same: runs where transformers is installed."""

import pytest
import torch
from safetensors.torch import load_file

from conform.contract.load import load_contract
from conform.trainer.distributed.world import join
from conform.trainer.model.model import Llama
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.request import TrainRequest, load_request

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def test_transformers_computes_the_same_logits_from_a_checkpoint(data, contracts, tmp_path):
    values = {"steps": 3, "batch": 8, "sequence": 32, "lr": 1e-2, "dtype": "f32"}
    contract = contracts / "dense.toml"
    loaded = load_request(TrainRequest(tmp_path / "run", False, str(contract), data, None, values))
    path = launch(loaded, join(loaded.settings), SilentView()).checkpoint
    theirs = transformers.LlamaForCausalLM.from_pretrained(path).eval()
    ours = Llama(load_contract(str(contract)).model)
    ours.load_state_dict(load_file(path / "model.safetensors"))
    tokens = torch.randint(0, 512, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=1e-4, atol=1e-5)
