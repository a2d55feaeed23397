"""A checkpoint of stored ternary codes: exporter, reference and rung read it as the same model."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import QuantizeError
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify.verify import open_gguf
from conform.parity.candidate import Candidate, Source
from conform.parity.evidence import Evidence
from conform.parity.progress import silent
from conform.parity.questions.sequences import Scope
from conform.parity.reference.dimensions import dimensions_of_file, dimensions_of_model
from conform.parity.reference.model import Reference
from conform.parity.reference.weights import CheckpointWeights, FileWeights
from conform.parity.rungs.weights import judge_weights

from .conftest import random_weights

IDS = (1, 40, 41, 42, 300, 7)
CONFIG = {"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}
RUNTIME = SimpleNamespace(decoded_sha256=lambda name: None)


@pytest.fixture
def stored(tmp_path, micro, tokenizer_model):
    """Source of a checkpoint of packed codes, half of which are zeros, so that their absmean is not their scale."""
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, linear="ternary-stored"))
    weights, rng = random_weights(contract.model), np.random.default_rng(4)
    for spec in inventory(contract.model):
        if spec.storage_class == "linear":
            codes = rng.choice(np.array([0, 1, 1, 2], np.uint8), spec.shape)
            quarters = np.split(codes, 4)
            weights[spec.name] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            weights[f"{spec.name}_scale"] = np.full(1, 1.4 * spec.shape[1] ** -0.5, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(tokenizer_model, tmp_path / "tokenizer.model")
    return Source(open_checkpoint(tmp_path), contract)


@pytest.fixture
def file(stored, registry, tmp_path):
    vocabulary = read_vocabulary(tmp_path / "tokenizer.model")
    plan = plan_export(stored.checkpoint, stored.contract, vocabulary, registry, "i2_s", tmp_path / "x.gguf")
    return open_gguf(run_export(plan).path, registry)


def test_the_weights_of_the_file_are_the_stored_ones_bit_for_bit(stored, file, registry):
    weights = Evidence(Candidate(file, RUNTIME, registry, stored), Scope(), silent).weights
    result = judge_weights(weights)
    assert result.passed
    assert [measured.name for measured in result.measurements] == ["tensors that are not bit-equal"]


def test_a_reader_that_takes_them_for_latent_weights_is_caught(stored, file, registry):
    latent = dataclasses.replace(stored.contract, model=dataclasses.replace(stored.contract.model, linear="ternary"))
    wrong = Source(stored.checkpoint, latent)
    result = judge_weights(Evidence(Candidate(file, RUNTIME, registry, wrong), Scope(), silent).weights)
    assert not result.passed
    assert len(result.findings) == 14


def test_the_reference_over_the_checkpoint_is_the_one_over_the_file(stored, file, registry):
    over_file = Reference(dimensions_of_file(file), FileWeights(file, registry))
    over_source = Reference(
        dimensions_of_model(stored.contract.model), CheckpointWeights(stored.checkpoint, stored.contract)
    )
    ours, theirs = over_source.hidden([IDS])[0], over_file.hidden([IDS])[0]
    # The embedding is stored as f16, so that the two are near, not equal.
    assert np.square(ours - theirs).mean() < 1e-3 * np.square(ours).mean()


def test_the_reference_refuses_weights_that_should_be_ternary(stored, micro, make_checkpoint):
    floats = open_checkpoint(make_checkpoint(micro))
    with pytest.raises(QuantizeError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: not ternary"):
        CheckpointWeights(floats, stored.contract).linear("ffn_up", 0)
