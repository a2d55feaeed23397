"""Exports of checkpoints in every form in which weights are stored."""

import dataclasses
import json

import numpy as np
import pytest

from conform.contract.dump import dump_contract
from conform.contract.inventory import inventory
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import QuantizeError
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify.source import verify_against

RNG = np.random.default_rng(7)
SCALE = np.float32(0.0375)


def f32(values):
    return "F32", values.shape, np.ascontiguousarray(values, np.float32).tobytes()


def bf16(values):
    return (
        "BF16",
        values.shape,
        (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes(),
    )


def packed(codes):
    """As transformers packs them: byte (r, c) holds rows r, r + n, r + 2n and r + 3n, the first in its lowest bits."""
    quarters = np.split((codes + 1).astype(np.uint8), 4)
    content = sum(quarter << 2 * n for n, quarter in enumerate(quarters)).astype(np.uint8)
    return "U8", content.shape, content.tobytes()


def ternary(form):
    def store(name, codes):
        scale = np.float32(1) / SCALE if form == "divides" else SCALE
        values = bf16(codes) if form == "loose" else packed(codes)
        return {name: values, f"{name}_scale": f32(np.full(1, scale))}

    return store


@pytest.fixture
def write_stored(tmp_path, micro, tokenizer_bytes, write_raw):
    """A checkpoint without a sidecar, and the file of its contract: `store` writes each linear layer's codes."""

    def write(linear, store, quantization, low=-1, high=2):
        folder = tmp_path / "stored"
        folder.mkdir()
        contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, linear=linear))
        codes = {}
        raw = {}
        for spec in inventory(contract.model):
            if spec.storage_class == "linear":
                codes[spec.gguf_name] = RNG.integers(low, high, spec.shape)
                raw |= store(spec.name, codes[spec.gguf_name])
            else:
                raw[spec.name] = bf16(RNG.standard_normal(spec.shape))
        write_raw(folder / "model.safetensors", raw)
        (folder / "tokenizer.model").write_bytes(tokenizer_bytes)
        (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
        (tmp_path / "contract.toml").write_text(dump_contract(contract))
        return folder, contract, codes

    return write


@pytest.fixture
def export(tmp_path, registry):
    def run(folder, contract, quant):
        vocabulary = read_vocabulary(folder / "tokenizer.model")
        plan = plan_export(open_checkpoint(folder), contract, vocabulary, registry, quant, tmp_path / f"{quant}.gguf")
        path = run_export(plan).path
        assert verify_against(path, registry, folder, str(tmp_path / "contract.toml")).findings == ()
        return read_gguf(path)

    return run


@pytest.mark.parametrize("form", ["multiplies", "divides", "loose"])
def test_stored_ternary_codes_reach_i2_s_without_loss(write_stored, export, registry, form):
    linear_class = "bitlinear" if form == "divides" else "autobitlinear"
    quantization = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
    folder, contract, codes = write_stored("ternary-stored", ternary(form), quantization)
    file = export(folder, contract, "i2_s")
    scale = np.float32(1) / (np.float32(1) / SCALE) if form == "divides" else SCALE
    for name in ("blk.0.ffn_up.weight", "blk.1.attn_v.weight", "blk.1.ffn_down.weight"):  # which are not permuted
        decoded = registry.quantizers["i2_s"].dequantize(file.packed(name), file.tensors[name].shape)
        assert np.array_equal(decoded, codes[name].astype(np.float32) * scale)


def test_latent_weights_that_are_ternary_by_chance_are_scaled_by_their_mean(write_stored, export, registry):
    quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    folder, contract, codes = write_stored("ternary", lambda name, codes: {name: f32(codes)}, quantization)
    file, name = export(folder, contract, "i2_s"), "blk.0.ffn_up.weight"
    decoded = registry.quantizers["i2_s"].dequantize(file.packed(name), file.tensors[name].shape)
    assert np.array_equal(decoded, codes[name].astype(np.float32) * np.float32(np.abs(codes[name]).mean()))


def test_weights_that_should_be_ternary_and_are_not_are_refused(checkpoint, micro, export):
    (checkpoint / "conform.json").unlink()
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, linear="ternary-stored"))
    with pytest.raises(QuantizeError, match=r"blk\.0\.attn_q\.weight: not ternary: expected only -c, 0 and c"):
        export(checkpoint, contract, "i2_s")


def test_blocks_of_fp8_are_exported_as_the_values_that_they_stand_for(write_stored, export):
    def store(name, codes):
        scales = RNG.uniform(0.01, 0.02, (-(-codes.shape[0] // 48), -(-codes.shape[1] // 80))).astype(np.float32)
        expected[name] = np.kron(scales, np.ones((48, 80), np.float32))[: codes.shape[0], : codes.shape[1]]
        return {name: ("F8_E4M3", codes.shape, codes.astype(np.uint8).tobytes()), f"{name}_scale_inv": f32(scales)}

    expected = {}
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 80]}
    # 0x30 … 0x38 are 0.5, 0.5625, … 0.9375, 1.
    folder, contract, codes = write_stored("dense", store, quantization, 0x30, 0x39)
    file = export(folder, contract, "f32")
    values = (codes["blk.1.ffn_down.weight"] - 0x28).astype(np.float32) / 16
    found = file.packed("blk.1.ffn_down.weight").view("<f4").reshape(values.shape)
    assert np.array_equal(found, values * expected["model.layers.1.mlp.down_proj.weight"])


def test_double_precision_is_exported(checkpoint, micro, tmp_path, export):
    from safetensors.numpy import load_file, save_file

    (checkpoint / "conform.json").unlink()
    (tmp_path / "contract.toml").write_text(dump_contract(micro))
    weights = load_file(checkpoint / "model.safetensors")
    for name in list(weights)[::2]:
        weights[name] = weights[name].astype(np.float64)
    save_file(weights, checkpoint / "model.safetensors")
    assert export(checkpoint, micro, "bf16").tensors
