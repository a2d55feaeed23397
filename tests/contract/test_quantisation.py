import pytest

from conform.contract.errors import ContractError
from conform.contract.quantisation import PLAIN, Stored, stored_weights


def read(**settings):
    return stored_weights({"quantization_config": settings}, "config.json")


def test_without_the_key_the_weights_are_plain():
    assert stored_weights({}, "") == stored_weights({"quantization_config": None}, "") == PLAIN


def test_online_bitnet_stores_latent_weights():
    online = read(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online")
    assert online == Stored("bitnet-online", unconverted=("lm_head",))


@pytest.mark.parametrize(("linear_class", "scale"), [("bitlinear", "divides"), ("autobitlinear", "multiplies")])
def test_the_linear_class_says_what_a_packed_scale_does(linear_class, scale):
    assert read(quant_method="bitnet", linear_class=linear_class).scale == scale


def test_bitnet_is_packed_and_divides_where_it_says_nothing_else():
    assert read(quant_method="bitnet") == Stored("bitnet-packed", "divides", unconverted=("lm_head",))


def test_fp8_says_which_block_shares_a_scale():
    assert read(quant_method="fp8").block == (128, 128)
    assert read(quant_method="fp8", weight_block_size=[64, 32], ignored_layers=[]) == Stored(
        "fp8-blocks", None, (64, 32)
    )


BITNET = {"quant_method": "bitnet"}
FP8 = {"quant_method": "fp8"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method = 'gptq': expected bitnet or fp8; export"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"quant_method": "compressed-tensors"}, "'compressed-tensors'"),
        ({"quant_method": ["fp8"]}, r"quant_method = \['fp8'\]"),
        ({}, "quant_method = None"),
        (BITNET | {"use_rms_norm": True}, "use_rms_norm = True: expected False; a contract has no norm"),
        (BITNET | {"quantization_mode": "online"}, "beside linear_class = 'bitlinear'"),
        (BITNET | {"quantization_mode": "never"}, "quantization_mode = 'never'"),
        (BITNET | {"modules_to_not_convert": []}, r"modules_to_not_convert = \[\]: expected \['lm_head'\] or null"),
        (BITNET | {"modules_to_not_convert": ["lm_head", "q_proj"]}, "'q_proj'"),
        (BITNET | {"modules_to_not_convert": "lm_head"}, "expected a list of module names"),
        (BITNET | {"group_size": 64}, "unknown key group_size"),
        (FP8 | {"activation_scheme": "static"}, "activation_scheme = 'static'"),
        (FP8 | {"weight_block_size": None}, "weight_block_size = None: expected two whole numbers"),
        (FP8 | {"weight_block_size": [128, True]}, "weight_block_size"),
        (FP8 | {"scale_fmt": "ue8m0"}, "scale_fmt = 'ue8m0'"),
        (FP8 | {"fmt": "e5m2"}, "fmt = 'e5m2'"),
        (FP8 | {"modules_to_not_convert": ["a"], "ignored_layers": ["b"]}, "expected one list"),
    ],
)
def test_what_cannot_be_read_is_named(settings, message):
    with pytest.raises(ContractError, match=message):
        read(**settings)


def test_settings_that_are_not_an_object_are_refused():
    with pytest.raises(ContractError, match="quantization_config = 'fp8': expected a JSON object or null"):
        stored_weights({"quantization_config": "fp8"}, "config.json")
