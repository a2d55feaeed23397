import numpy as np
import pytest

from conform.core.checkpoint import open_checkpoint
from conform.core.export import run_export
from conform.core.gguf_read import read_gguf
from conform.core.plan import plan_export
from conform.core.ternary import effective
from conform.core.transform import permute_qk
from conform.core.verify import verify
from conform.core.vocabulary import read_vocabulary


@pytest.fixture
def export(registry, tmp_path):
    def run(folder, contract, quant, **options):
        opened = open_checkpoint(folder)
        target = tmp_path / f"{quant}.gguf"
        plan = plan_export(opened, contract, read_vocabulary(opened.tokenizer_path), registry, quant, target, **options)
        return run_export(plan)

    return run


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "i2_s"])
def test_every_export_conforms(export, checkpoint, micro, registry, quant):
    report = export(checkpoint, micro, quant)
    assert verify(report.path, None, registry) == []
    assert verify(report.path, micro, registry) == []


def test_rotary_rows_are_permuted_and_all_others_are_not(export, checkpoint, micro):
    file = read_gguf(export(checkpoint, micro, "f32").path)
    source = open_checkpoint(checkpoint)

    def written(name):
        return file.packed(name).view("<f4").reshape(file.tensors[name].shape)

    q, k = (source.read(f"model.layers.1.self_attn.{part}_proj.weight") for part in "qk")
    assert np.array_equal(written("blk.1.attn_q.weight"), permute_qk(q, micro.model.heads))
    assert np.array_equal(written("blk.1.attn_k.weight"), permute_qk(k, micro.model.kv_heads))
    assert np.array_equal(written("blk.0.ffn_gate.weight"), source.read("model.layers.0.mlp.gate_proj.weight"))


def test_a_ternary_contract_is_packed_without_loss(export, ternary_checkpoint, micro_ternary, registry):
    report = export(ternary_checkpoint, micro_ternary, "i2_s")
    linear = [tensor for tensor in report.tensors if tensor.plan.spec.storage_class == "linear"]
    assert len(linear) == 14
    assert all(tensor.cost.relative_error == 0 for tensor in linear)
    file = read_gguf(report.path)
    decoded = registry.quantizer("i2_s").dequantize(file.packed("blk.0.ffn_up.weight"), (512, 256))
    latent = open_checkpoint(ternary_checkpoint).read("model.layers.0.mlp.up_proj.weight")
    assert np.array_equal(decoded, effective(latent))
