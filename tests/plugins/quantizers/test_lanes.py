"""What holds for every type searched in lanes, iq1_* and iq4_*: decoding, error, robustness, determinism, refusals."""

import hashlib
import os
import subprocess
import sys

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.plugins import QuantizeError, Tunable
from conform.plugins.quantizers import iq1, iq4

sys.path.insert(0, os.path.dirname(__file__))
from strategies import bell_weights, examples, log_normal_importance

TYPES = (*iq1.conform_quantizers(), *iq4.conform_quantizers())
EFFORTS = ("fast", "default", "best")
by_type = pytest.mark.parametrize("quantizer", TYPES, ids=lambda q: q.name)
by_effort = pytest.mark.parametrize("effort", EFFORTS)
by_kind = pytest.mark.parametrize("kind", ["gauss", "t3"])

# What ggml 0.25.3 leaves of the data below: sqrt(sum w (x - y)^2 / sum w x^2), measured through libggml-base. Without
# importance w is one; ggml was given ones too, with which it leaves less than without any.
GGML = {
    # type: (gauss, gauss weighted, t3, t3 weighted)
    "iq1_s": (0.485914, 0.39939, 0.621028, 0.526328),
    "iq1_m": (0.451267, 0.345167, 0.507922, 0.418403),
    "iq4_nl": (0.074999, 0.0640512, 0.101504, 0.0939326),
    "iq4_xs": (0.0756913, 0.0649571, 0.102877, 0.0958057),
}
# What must be gained on it: 5 % at one to three bits.
GAIN = {"iq1_s": 0.95, "iq1_m": 0.95, "iq4_nl": 0.99, "iq4_xs": 0.99}


def _loss(values, decoded, importance=None):
    w = 1.0 if importance is None else importance.astype(np.float64)
    return (w * (values.astype(np.float64) - decoded) ** 2).sum()


def _error(quantizer, values, importance=None):
    decoded = quantizer.dequantize(quantizer.quantize(values, importance), values.shape)
    return np.sqrt(_loss(values, decoded, importance) / _loss(values, 0, importance))


def _theirs(quantizer, packed, shape):
    kind = gguf.GGMLQuantizationType(quantizer.layout.ggml_type)
    return gguf.quants.dequantize(packed.reshape(shape[0], -1), kind)


def _assert_same(quantizer, packed, shape):
    decoded = quantizer.dequantize(packed.reshape(-1), shape)
    with np.errstate(invalid="ignore"):
        expected = _theirs(quantizer, packed, shape)
    # Whatever is not a number is only compared as that: its bits depend on the processor.
    assert decoded.dtype == expected.dtype == np.float32
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(~np.isnan(decoded), numbers)
    np.testing.assert_array_equal(decoded[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@by_type
def test_any_bytes_decode_as_gguf_decodes_them(quantizer):
    packed = np.random.default_rng(1).integers(0, 256, quantizer.nbytes((700, 512)), np.uint8)
    _assert_same(quantizer, packed, (700, 512))


@by_type
@given(data=st.data())
@examples(25)
def test_any_block_decodes_as_gguf_decodes_it(quantizer, data):
    size = quantizer.nbytes((256,))
    packed = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    _assert_same(quantizer, packed, (1, 256))


@by_type
@pytest.mark.filterwarnings("error")
def test_scales_that_are_not_finite_decode_without_a_warning(quantizer):
    for byte in (0x7C, 0xFC, 0x7E, 0xFF):
        packed = np.full(quantizer.nbytes((512,)), byte, np.uint8)
        assert quantizer.dequantize(packed, (512,)).shape == (512,)


@by_type
@given(
    exponent=st.integers(-12, 4),
    seed=st.integers(0, 2**32 - 1),
    tail=st.sampled_from([1.5, 3.0, 30.0]),
    weighted=st.booleans(),
    effort=st.sampled_from(EFFORTS),
)
@examples(25)
def test_what_is_written_decodes_as_gguf_decodes_it_and_is_close(quantizer, exponent, seed, tail, weighted, effort):
    rng = np.random.default_rng(seed)
    values = (rng.standard_t(tail, (2, 512)) * 10.0**exponent).clip(-4e5, 4e5).astype(np.float32)
    importance = rng.exponential(size=512).astype(np.float32) if weighted else None
    packed = quantizer.with_effort(effort).quantize(values, importance)
    _assert_same(quantizer, packed, values.shape)
    assert _loss(values, quantizer.dequantize(packed, values.shape), importance) <= _loss(values, 0, importance)


@by_type
@by_effort
@by_kind
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_is_below_that_of_ggml(quantizer, effort, kind, weighted):
    ceiling = GGML[quantizer.name][2 * (kind == "t3") + weighted]
    error = _error(quantizer.with_effort(effort), bell_weights(kind), log_normal_importance() if weighted else None)
    assert error < GAIN[quantizer.name] * ceiling


@by_type
@by_kind
def test_more_effort_leaves_less_error(quantizer, kind):
    errors = [_error(quantizer.with_effort(effort), bell_weights(kind), log_normal_importance()) for effort in EFFORTS]
    assert errors == sorted(errors, reverse=True)


@by_type
def test_importance_moves_error_to_the_columns_that_matter_less(quantizer):
    values, importance = bell_weights("gauss"), log_normal_importance()
    blind = _loss(values, quantizer.dequantize(quantizer.quantize(values), values.shape), importance)
    seeing = quantizer.dequantize(quantizer.quantize(values, importance), values.shape)
    assert _loss(values, seeing, importance) < 0.9 * blind


# sha256 of what is written for _integers(), first sixteen digits: the same on every machine.
DIGESTS = {
    ("iq1_s", "fast"): "e23dfa76cc469466",
    ("iq1_s", "default"): "a1b62235a48addb8",
    ("iq1_s", "best"): "426579d4f2ca9197",
    ("iq1_m", "fast"): "234838a335ece31a",
    ("iq1_m", "default"): "b3e05dae0f34ba4c",
    ("iq1_m", "best"): "00f451afe938cc6b",
    ("iq4_nl", "fast"): "6fb535c02a542fdc",
    ("iq4_nl", "default"): "d38f2e4520b13ddc",
    ("iq4_nl", "best"): "fec387f90a49372f",
    ("iq4_xs", "fast"): "9e2778671624002b",
    ("iq4_xs", "default"): "b3ad126338556d8b",
    ("iq4_xs", "best"): "673a36eb19958417",
}


def _integers():
    """Values and importance made without a floating-point function, so that they are the same everywhere."""
    rng = np.random.default_rng(5)
    values = rng.integers(-(2**15), 2**15, (8, 512)) * rng.integers(1, 2**9, (8, 512))
    return values.astype(np.float32) / np.float32(2**24), rng.integers(0, 1000, 512).astype(np.float32)


def digests():
    """(type, effort) → the digest of what is written for _integers()."""
    return {
        (quantizer.name, effort): hashlib.sha256(quantizer.with_effort(effort).quantize(*_integers())).hexdigest()[:16]
        for quantizer in TYPES
        for effort in EFFORTS
    }


def test_the_bytes_are_the_same_on_every_machine():
    assert digests() == DIGESTS


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_instructions_of_the_processor(with_oldest_instructions):
    with_oldest_instructions("test_lanes")


@by_type
def test_the_input_is_left_alone(quantizer):
    values, importance = bell_weights("t3"), log_normal_importance()
    before = values.tobytes(), importance.tobytes()
    quantizer.quantize(values, importance)
    assert (values.tobytes(), importance.tobytes()) == before


@by_type
def test_zeros_stay_zero(quantizer):
    values = bell_weights("gauss")[:4]
    values[1] = 0
    values[2, 256:512] = 0
    values[3, 64:96] = 0
    decoded = quantizer.dequantize(quantizer.quantize(values), values.shape)
    assert not decoded[1].any()
    assert not decoded[2, 256:512].any()
    if quantizer.name.startswith("iq4"):  # where a block of its own can be zero
        assert not decoded[3, 64:96].any()
    assert np.isfinite(decoded).all()


@by_type
@pytest.mark.parametrize("value", [0.37, -0.37, 5e4, 1e-2])
def test_rows_of_one_magnitude_are_kept(quantizer, value):
    assert _error(quantizer, np.full((2, 512), value, np.float32)) < 2e-3


@by_type
@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-30, 1e-20, 1e-12, 1e-9, 1e-8])
def test_values_too_small_for_any_scale_become_zeros(quantizer, scale):
    decoded = quantizer.dequantize(quantizer.quantize(bell_weights("gauss") * np.float32(scale)), (32, 1024))
    assert np.abs(decoded).max() <= 1e-9


@by_type
@pytest.mark.parametrize("outlier", [1.0, -300.0, 4e5])
def test_one_outlier_costs_only_its_own_block(quantizer, outlier):
    values = bell_weights("gauss")
    values[3, 300] = outlier
    decoded = quantizer.dequantize(quantizer.quantize(values), values.shape)
    assert _loss(values[3], decoded[3]) < 0.75 * outlier**2
    others = np.delete(values, 3, axis=0)
    plain = quantizer.dequantize(quantizer.quantize(others), others.shape)
    np.testing.assert_array_equal(np.delete(decoded, 3, axis=0), plain)


@by_type
@pytest.mark.parametrize("value", [1e9, -1e20, 3e38])
def test_a_scale_beyond_half_precision_is_refused(quantizer, value):
    values = bell_weights("gauss")
    values[3, 600] = value
    with pytest.raises(QuantizeError, match=r"row 3, columns .* need a scale above 65504"):
        quantizer.quantize(values)


@by_type
def test_blocks_without_importance_are_kept_as_if_it_were_even(quantizer):
    values, importance = bell_weights("gauss"), log_normal_importance()
    importance[:512] = 0
    importance[512 : 512 + 16] = 0
    decoded = quantizer.dequantize(quantizer.quantize(values, importance), values.shape)
    even = quantizer.dequantize(quantizer.quantize(values), values.shape)
    np.testing.assert_array_equal(decoded[:, :512], even[:, :512])
    assert _loss(values[:, 512:528], decoded[:, 512:528]) < 0.6 * _loss(values[:, 512:528], 0)


@by_type
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(quantizer, bad):
    values = bell_weights("gauss")
    values[2, 77] = bad
    with pytest.raises(QuantizeError, match="row 2, column 77"):
        quantizer.quantize(values)


@by_type
@pytest.mark.parametrize(
    "importance", [np.ones(512), np.full(1024, -1.0), np.full(1024, np.nan), np.full(1024, np.inf), np.ones((1, 1024))]
)
def test_importance_that_does_not_fit_is_refused(quantizer, importance):
    with pytest.raises(QuantizeError, match="importance"):
        quantizer.quantize(bell_weights("gauss"), importance.astype(np.float32))


@by_type
@pytest.mark.parametrize("shape", [(1, 255), (2, 100), (4, 0), ()])
def test_rows_that_are_not_whole_blocks_are_refused(quantizer, shape):
    with pytest.raises(QuantizeError, match=f"multiple of {quantizer.layout.block_size}"):
        quantizer.nbytes(shape)


@by_type
def test_bytes_of_another_size_are_refused(quantizer):
    with pytest.raises(QuantizeError, match="decodes"):
        quantizer.dequantize(np.zeros(quantizer.nbytes((512,)) - 1, np.uint8), (512,))


@by_type
def test_no_rows_are_no_bytes(quantizer):
    assert quantizer.quantize(np.zeros((0, 512), np.float32)).shape == (0,)
    assert quantizer.dequantize(np.zeros(0, np.uint8), (0, 512)).shape == (0, 512)


@by_type
def test_sizes_are_those_of_the_gguf_package(quantizer):
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(quantizer.layout.ggml_type)]
    assert quantizer.layout.block_size == block
    assert quantizer.nbytes((3, 2 * block)) == 6 * size


@by_type
def test_effort_changes_nothing_but_the_search(quantizer):
    assert isinstance(quantizer, Tunable)
    best = quantizer.with_effort("best")
    assert (best.name, best.layout, best.needs_importance) == (quantizer.name, quantizer.layout, False)
    assert quantizer.effort == "default"


def test_numba_is_not_imported_before_the_first_search():
    script = (
        "import sys, conform.plugins.quantizers.iq1, conform.plugins.quantizers.iq4; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
