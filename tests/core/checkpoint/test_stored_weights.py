from pathlib import Path

import pytest

from conform.contract.quantisation import PLAIN, Stored
from conform.core.checkpoint.safetensors_header import StoredTensor
from conform.core.checkpoint.stored_weights import join_weights
from conform.core.checkpoint.weight import BlockScaled, LooseTernary, PackedTernary, Plain
from conform.core.errors import CheckpointError

LINEAR = "model.layers.0.mlp.up_proj.weight"
SCALE, INVERSE = f"{LINEAR}_scale", f"{LINEAR}_scale_inv"
PACKED = Stored("bitnet-packed", "multiplies", None, ("lm_head",))
DIVIDED = Stored("bitnet-packed", "divides", None, ("lm_head",))
FP8 = Stored("fp8-blocks", None, (128, 64), ("lm_head",))


def join(form, **tensors):
    """`tensors` maps names, with | for a dot, to (dtype, shape)."""
    stored = {
        name: StoredTensor(name, Path("x.safetensors"), dtype, shape, 0, 0) for name, (dtype, shape) in tensors.items()
    }
    return join_weights(stored, form)


def test_plain_tensors_are_weights_as_they_are():
    weights = join(PLAIN, **{LINEAR: ("BF16", (8, 4)), "model.norm.weight": ("F64", (4,))})
    assert {name: (w.shape, w.dtype, type(w.values)) for name, w in weights.items()} == {
        LINEAR: ((8, 4), "BF16", Plain),
        "model.norm.weight": ((4,), "F64", Plain),
    }


def test_packed_codes_have_four_times_the_rows_and_their_scale_is_no_tensor():
    weights = join(PACKED, **{LINEAR: ("U8", (2, 4)), SCALE: ("BF16", (1,)), "lm_head.weight": ("BF16", (9, 4))})
    assert set(weights) == {LINEAR, "lm_head.weight"}
    assert (weights[LINEAR].shape, weights[LINEAR].dtype) == ((8, 4), "F32")
    assert isinstance(weights[LINEAR].values, PackedTernary)


def test_loose_codes_are_read_where_the_library_reads_them():
    tensors = {LINEAR: ("BF16", (8, 4)), SCALE: ("F32", ())}
    assert isinstance(join(PACKED, **tensors)[LINEAR].values, LooseTernary)
    with pytest.raises(
        CheckpointError, match=r"up_proj\.weight: found dtype BF16, though linear_class = bitlinear means"
    ):
        join(DIVIDED, **tensors)


def test_fp8_has_a_scale_for_each_block_rounded_up():
    weights = join(FP8, **{LINEAR: ("F8_E4M3", (129, 64)), INVERSE: ("F32", (2, 1))})
    assert isinstance(weights[LINEAR].values, BlockScaled)
    assert weights[LINEAR].shape == (129, 64)


BROKEN = {
    "codes without a scale": (PACKED, {LINEAR: ("U8", (2, 4))}, "found U8 without a scale"),
    "floats beside bitnet": (PACKED, {LINEAR: ("BF16", (8, 4))}, "as if it were not quantised, .* quantised by bitnet"),
    "floats beside fp8": (FP8, {LINEAR: ("BF16", (8, 4))}, "as if it were not quantised, .* quantised by fp8"),
    "fp8 without scales": (FP8, {LINEAR: ("F8_E4M3", (8, 4))}, "found F8_E4M3 without a scale"),
    "scale of many": (
        PACKED,
        {LINEAR: ("U8", (2, 4)), SCALE: ("F32", (8,))},
        r"shape \(8,\); a ternary matrix has one",
    ),
    "scale of whole numbers": (PACKED, {LINEAR: ("U8", (2, 4)), SCALE: ("I32", (1,))}, "_scale: found dtype I32"),
    "codes of whole numbers": (PACKED, {LINEAR: ("I8", (2, 4)), SCALE: ("F32", (1,))}, "weight: found dtype I8"),
    "codes of a vector": (PACKED, {LINEAR: ("U8", (4,)), SCALE: ("F32", (1,))}, "which is not a matrix"),
    "other fp8": (FP8, {LINEAR: ("F8_E5M2", (8, 4)), INVERSE: ("F32", (1, 1))}, "found dtype F8_E5M2"),
    "too few blocks": (
        FP8,
        {LINEAR: ("F8_E4M3", (129, 64)), INVERSE: ("F32", (1, 1))},
        r"blocks of 128 × 64 need \(2, 1\)",
    ),
    "transposed blocks": (FP8, {LINEAR: ("F8_E4M3", (129, 64)), INVERSE: ("F32", (1, 2))}, r"shape \(1, 2\)"),
    "fp8 that nothing says": (PLAIN, {LINEAR: ("F8_E4M3", (8, 4)), INVERSE: ("F32", (1, 1))}, "quantised by fp8"),
    "ternary that nothing says": (PLAIN, {LINEAR: ("U8", (2, 4)), SCALE: ("F32", (1,))}, "quantised by bitnet"),
    "scale without its weight": (PACKED, {SCALE: ("F32", (1,))}, "_scale: belongs to weights quantised by bitnet"),
    "gptq": (PLAIN, {"model.layers.0.mlp.up_proj.qweight": ("I32", (1, 8))}, "quantised by GPTQ or AWQ"),
    "bitsandbytes": (PLAIN, {f"{LINEAR}.absmax": ("F32", (8,))}, r"quantised by bitsandbytes \(4 bits\)"),
    "compressed-tensors": (PLAIN, {f"{LINEAR}_packed": ("I32", (8, 1))}, "quantised by compressed-tensors"),
    "fixed activations": (FP8, {"model.layers.0.mlp.up_proj.input_scale": ("F32", ())}, "fixed scales of activations"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_named_and_no_scale_is_dropped(name):
    form, tensors, message = BROKEN[name]
    with pytest.raises(CheckpointError, match=message) as error:
        join(form, **tensors)
    assert "drop" not in str(error.value)


@pytest.mark.parametrize(
    "listed", ["lm_head", "model.layers.0", "model.layers.0.mlp.up_proj", "up_proj", "mlp.up_proj"]
)
def test_what_is_listed_as_unconverted_may_be_plain(listed):
    form = Stored("fp8-blocks", None, (128, 128), (listed,))
    tensors = {
        LINEAR: ("BF16", (8, 4)),
        "lm_head.weight": ("BF16", (8, 4)),
        "model.embed_tokens.weight": ("F16", (8, 4)),
    }
    if listed == "lm_head":
        with pytest.raises(CheckpointError, match="as if it were not quantised"):
            join(form, **tensors)
    else:
        assert set(join(form, **tensors)) == set(tensors)
