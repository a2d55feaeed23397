import pytest

from conform.contract.errors import InputError
from conform.contract.infer import infer_contract

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_a_llama_config_gives_its_parameters():
    model = infer_contract(LLAMA, "tinyllama").contract.model
    assert model.parameters == 1_100_048_384
    assert (model.head_dim, model.rope_base, model.dtype) == (64, 10000.0, "bf16")


def test_newer_configs_keep_rope_elsewhere():
    config = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    assert infer_contract(config, "x").contract.model.rope_base == 500000.0


def test_bitnet_has_sub_norms_and_ternary_linears():
    config = LLAMA | {"model_type": "bitnet", "hidden_act": "relu2", "tie_word_embeddings": True}
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
    }
    model = infer_contract(config, "x").contract.model
    assert (model.architecture, model.sub_norms, model.linear) == ("bitnet-b1.58", True, "ternary")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "rope_scaling.type = 'dynamic'"),
        ({"hidden_size": "2048"}, "hidden_size"),
        ({"num_attention_heads": 0}, "heads = 0"),
        ({"num_key_value_heads": 0}, "kv_heads = 0"),
        ({"head_dim": 0}, "head_dim = 0"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear': expected a JSON object or null"),
        ({"rope_parameters": [8.0]}, "rope_parameters = .*: expected a JSON object or null"),
        ({"rope_theta": 10**400}, "rope_theta = 1000"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
    ],
)
def test_what_no_contract_expresses_is_named(change, message):
    with pytest.raises(InputError, match=message):
        infer_contract(LLAMA | change, "x")
