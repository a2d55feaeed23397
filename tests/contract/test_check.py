import dataclasses

import pytest

from conform.contract.check import TensorSeen, check_tensors
from conform.contract.finding import failed
from conform.contract.inventory import inventory
from conform.contract.load import load_contract

MODEL = load_contract("nano").model
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def seen():
    return {spec.name: TensorSeen(spec.shape, "BF16") for spec in inventory(MODEL)}


def test_a_complete_checkpoint_has_no_findings(seen):
    assert check_tensors(seen, MODEL) == []


def test_every_violation_is_found_at_once(seen):
    del seen["model.norm.weight"]
    seen[Q] = TensorSeen((512, 256), "BF16")
    seen["model.layers.0.self_attn.q_proj.bias"] = TensorSeen((256,), "F32")
    findings = check_tensors(seen, MODEL)
    assert {f.where for f in findings} == {"model.norm.weight", Q, "model.layers.0.self_attn.q_proj.bias"}
    assert failed(findings)


def test_a_finding_says_expected_and_found(seen):
    seen[Q] = TensorSeen((512, 256), "BF16")
    (finding,) = check_tensors(seen, MODEL)
    assert (finding.expected, finding.found) == ("shape 256×512", "shape 512×256")
    assert "transposed" in finding.hint


def test_integer_weights_are_refused(seen):
    seen[Q] = TensorSeen(seen[Q].shape, "I8")
    assert "I8" in check_tensors(seen, MODEL)[0].found


def test_a_rotary_table_is_only_a_warning(seen):
    seen["model.layers.0.self_attn.rotary_emb.inv_freq"] = TensorSeen((16,), "F32")
    findings = check_tensors(seen, MODEL)
    assert len(findings) == 1
    assert not failed(findings)


def test_an_output_matrix_contradicts_tied_embeddings(seen):
    seen["lm_head.weight"] = TensorSeen((MODEL.vocab, MODEL.hidden), "BF16")
    assert "ties" in check_tensors(seen, MODEL)[0].hint


def test_one_layer_too_many_is_unexpected(seen):
    findings = check_tensors(seen, dataclasses.replace(MODEL, layers=1))
    assert all(".layers.1." in finding.where for finding in findings)
    assert len(findings) == 9
