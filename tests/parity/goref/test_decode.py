"""goref's decoders against gguf's, bit for bit, on random bytes; gguf-py knows no I2_S, which has a decoder here."""

import hashlib
import json
import struct

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from conform.plugins.host import load_registry

F16_AT = {  # where a block keeps its f16 scale
    Kind.Q4_0: 0,
    Kind.Q5_0: 0,
    Kind.Q8_0: 0,
    Kind.Q3_K: 108,
    Kind.Q6_K: 208,
    Kind.IQ1_S: 0,
    Kind.IQ2_XXS: 0,
    Kind.IQ2_XS: 0,
    Kind.IQ2_S: 0,
    Kind.IQ3_XXS: 0,
    Kind.IQ3_S: 0,
    Kind.IQ4_NL: 0,
    Kind.IQ4_XS: 0,
    Kind.TQ1_0: 52,
    Kind.TQ2_0: 64,
}
TWO_F16_AT = {Kind.Q4_1: 0, Kind.Q5_1: 0, Kind.Q2_K: 80, Kind.Q4_K: 0, Kind.Q5_K: 0}  # scale, then minimum
BLOCKS = 600


@pytest.fixture
def goref_sha256(micro, run_goref, tmp_path):
    """The hash that goref reports for these bytes as a tensor of that shape."""

    def run(shape, kind, raw, *arguments):
        file = micro.file()
        tensor = next(iter(file.tensors.values()))
        file.tensors = {"before": tensor, "w": type(tensor)(shape, kind, raw)}
        ran = run_goref("ggufhash", "--model", file.write(tmp_path / "m.gguf"), "--tensor", "w", *arguments)
        assert ran.code == 0, ran.err
        return json.loads(ran.out)["sha256"]

    return run


def sha256(values):
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def random_blocks(kind, seed):
    """Random bytes whose scales are finite and now and then zero, negative or subnormal."""
    rng = np.random.default_rng(seed)
    size, length = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS, length), np.uint8)
    scales = rng.integers(0, 2**16, BLOCKS, np.uint16)
    scales = np.where(scales >> 10 & 31 == 31, scales & 0x83FF, scales).astype("<u2")
    scales[:4] = 0, 0x8000, 1, 0x83FF
    if kind == Kind.IQ1_M:
        for part in range(4):
            blocks[:, 49 + 2 * part] = (blocks[:, 49 + 2 * part] & 15) | ((scales >> (4 * part) & 15) << 4)
    elif kind in F16_AT:
        blocks[:, F16_AT[kind] : F16_AT[kind] + 2] = scales.view(np.uint8).reshape(-1, 2)
    elif kind in TWO_F16_AT:
        at = TWO_F16_AT[kind]
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        blocks[:, at + 2 : at + 4] = rng.permutation(scales).view(np.uint8).reshape(-1, 2)
    elif kind == Kind.MXFP4:
        blocks[:, 0] = blocks[:, 0] % 80 + 60  # larger scales overflow what a model computes
        blocks[:3, 0] = 0, 1, 2
        blocks[:3, 0] = 0, 1, 2
    return blocks, size


@pytest.mark.parametrize("kind", [*F16_AT, *TWO_F16_AT, Kind.IQ1_M, Kind.MXFP4], ids=lambda kind: kind.name.lower())
def test_block_types_decode_to_the_bits_of_gguf(goref_sha256, kind):
    blocks, size = random_blocks(kind, int(kind))
    expected = gguf.dequantize(blocks, kind)
    assert np.isfinite(expected).all()
    assert goref_sha256((BLOCKS, size), int(kind), blocks.tobytes()) == sha256(expected)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16])
def test_every_number_of_a_half_float_is_exact(goref_sha256, kind):
    bits = np.arange(2**16, dtype="<u2")
    exponent = bits >> 10 & 31 if kind == Kind.F16 else bits >> 7 & 255
    finite = bits[exponent != (31 if kind == Kind.F16 else 255)]
    expected = gguf.dequantize(finite.view(np.uint8), kind)
    assert goref_sha256((len(finite),), int(kind), finite.tobytes()) == sha256(expected)


def test_f32_is_passed_through(goref_sha256):
    values = np.random.default_rng(1).normal(size=1000).astype("<f4")
    assert goref_sha256((1000,), 0, values.tobytes()) == sha256(values)


@pytest.mark.parametrize("shape", [(3, 128), (5, 256), (32, 4), (3, 200), (1, 64)])
def test_i2_s_decodes_across_rows(goref_sha256, shape):
    count = int(np.prod(shape))
    trits = np.random.default_rng(count).integers(-1, 2, count)
    scale = np.float32(0.37)
    packed = bytearray(-(-count // 128) * 32)
    for i, trit in enumerate(trits):
        packed[i // 128 * 32 + i % 32] |= int(trit + 1) << (6 - 2 * (i % 128 // 32))
    raw = bytes(packed) + struct.pack("<f", scale)
    raw += bytes(count // 4 + 32 - len(raw))
    assert goref_sha256(shape, 36, raw) == sha256((trits * scale).astype(np.float32))


def test_the_first_values_only(goref_sha256):
    values = np.arange(96, dtype="<f4")
    assert goref_sha256((96,), 0, values.tobytes(), "--count", 10) == sha256(values[:10])


def test_a_tensor_that_is_not_there(micro, run_goref, tmp_path):
    ran = run_goref("ggufhash", "--model", micro.file().write(tmp_path / "m.gguf"), "--tensor", "x")
    assert (ran.code, ran.out) == (1, "")
    assert "tensor x is missing" in ran.err


@pytest.mark.parametrize("kind", [*F16_AT, *TWO_F16_AT, Kind.IQ1_M, Kind.MXFP4], ids=lambda kind: kind.name.lower())
def test_a_model_of_every_type_runs(micro, run_goref, tmp_path, kind):
    file = micro.replace(layers=1).file()
    tensor = file.tensors["blk.0.ffn_up.weight"]
    blocks, size = random_blocks(kind, 5)
    blocks = np.resize(blocks, (int(np.prod(tensor.shape)) // size, blocks.shape[1]))
    file.tensors["blk.0.ffn_up.weight"] = type(tensor)(tensor.shape, int(kind), blocks.tobytes())
    ran = run_goref("bitnet", "--model", file.write(tmp_path / "m.gguf"), "--max-tokens", 1)
    assert ran.code == 0, ran.err


READABLE = [name for name in load_registry().quantizers if name not in {"i2_s_arm", "i2_s_rows"}]


@pytest.mark.parametrize("name", READABLE)
def test_what_a_quantizer_writes_decodes_to_the_bits_it_means(goref_sha256, name):
    quantizer = load_registry().quantizers[name]
    values = np.random.default_rng(2).standard_t(3, (6, 512)).astype(np.float32)
    packed = quantizer.quantize(values)
    expected = quantizer.dequantize(packed, values.shape)
    assert goref_sha256(values.shape, quantizer.layout.ggml_type, packed.tobytes()) == sha256(expected)
