import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.gguf.read import read_gguf
from conform.core.gguf.write import TensorEntry, align, encode_header
from conform.core.i2_s.format import I2_S, LAYOUTS
from conform.core.i2_s.layout import layout_evidence, pack_codes, unpack_codes

NAMES = {"x86": "i2_s", "arm": "i2_s_arm", "rows": "i2_s_rows"}


def random_codes(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        ("x86", {0: (0, 6), 32: (0, 4), 64: (0, 2), 96: (0, 0), 1: (1, 6), 127: (31, 0), 128: (32, 6)}),
        ("arm", {0: (0, 6), 16: (0, 4), 32: (0, 2), 48: (0, 0), 1: (1, 6), 63: (15, 0), 64: (16, 6)}),
        ("rows", {0: (0, 6), 128: (0, 4), 256: (0, 2), 384: (0, 0), 1: (1, 6), 512: (128, 6)}),
    ],
)
def test_each_value_lies_where_the_layout_says(layout, places):
    for value, (byte, shift) in places.items():
        codes = np.zeros(8 * 128, np.uint8)
        codes[value] = 2
        packed = pack_codes(codes.reshape(8, 128), layout)
        assert packed.nonzero()[0].tolist() == [byte]
        assert packed[byte] == 2 << shift


@given(st.sampled_from(LAYOUTS), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_unpacking_is_the_inverse_of_packing(layout, rows, cols, seed):
    codes = random_codes((4 * rows, 128 * cols), seed)
    packed = pack_codes(codes, layout)
    assert packed.dtype == np.uint8
    assert packed.size == codes.size // 4
    assert np.array_equal(unpack_codes(packed, layout, codes.shape), codes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_quantizer_of_that_layout_agrees(registry, layout):
    codes = random_codes((8, 256))
    values = (codes.astype(np.float32) - 1) * np.float32(0.25)
    assert np.array_equal(registry.codec(NAMES[layout]).quantizer.quantize(values)[:-32], pack_codes(codes, layout))


def planted_model(layout, strength, seed=0, hidden=512, ffn=1024):
    """i2_s tensors of one block whose channels differ, as those of a trained model do."""
    rng = np.random.default_rng(seed)
    channel = {"hidden": rng.standard_normal(hidden), "ffn": rng.standard_normal(ffn)}
    shapes = {
        "attn_q": ("hidden", "hidden"),
        "attn_output": ("hidden", "hidden"),
        "ffn_gate": ("ffn", "hidden"),
        "ffn_up": ("ffn", "hidden"),
        "ffn_down": ("hidden", "ffn"),
    }
    for role, (out, into) in shapes.items():
        logit = strength * (channel[out][:, None] + channel[into][None, :])
        used = rng.random(logit.shape) < 1 / (1 + np.exp(-logit))
        codes = np.where(used, rng.choice([0, 2], logit.shape), 1).astype(np.uint8)
        yield f"blk.0.{role}.weight", codes, pack_codes(codes, layout)


def write_model(path, layout, strength):
    entries, contents, position = [], [], 0
    for name, codes, packed in planted_model(layout, strength):
        content = packed.tobytes() + np.float32(0.5).tobytes() + bytes(28)
        entries.append(TensorEntry(name, codes.shape, I2_S, position))
        contents.append(content.ljust(align(len(content)), b"\0"))
        position += len(contents[-1])
    path.write_bytes(encode_header({}, entries, 32) + b"".join(contents))
    return read_gguf(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_that_differ_betray_the_layout(tmp_path, layout):
    evidence = layout_evidence(write_model(tmp_path / "x.gguf", layout, 0.15))
    assert max(evidence, key=evidence.get) == layout
    assert evidence[layout] > 10
    assert all(evidence[layout] - score > 4 for other, score in evidence.items() if other != layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_that_do_not_differ_betray_nothing(tmp_path, layout):
    assert max(layout_evidence(write_model(tmp_path / "x.gguf", layout, 0)).values()) < 6
