"""Hugging Face: the config.json that lets other tools open a checkpoint."""

from typing import Any

from conform.contract.mapping import to_mapping
from conform.contract.spec import Contract, RopeScaling

__all__ = ["huggingface_config"]

# What transformers calls a parameter of the scaling, where it calls it otherwise.
_SCALING_KEYS = {"kind": "rope_type", "original_context": "original_max_position_embeddings"}


def huggingface_config(contract: Contract) -> dict[str, Any]:
    """The configuration of a Llama, or of a BitNet for bitnet-b1.58; the checkpoint's weights are float32."""
    model, tokenizer = contract.model, contract.tokenizer
    bitnet = model.architecture == "bitnet-b1.58"
    config: dict[str, Any] = {
        "architectures": ["BitNetForCausalLM" if bitnet else "LlamaForCausalLM"],
        "model_type": "bitnet" if bitnet else "llama",
        "hidden_act": "relu2" if bitnet else "silu",
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "rope_scaling": _rope_scaling(model.rope_scaling) if model.rope_scaling else None,
        "vocab_size": model.vocab,
        "tie_word_embeddings": model.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "torch_dtype": "float32",
    }
    if model.rope_dim != model.head_dim:
        config["partial_rotary_factor"] = model.rope_dim / model.head_dim
    if model.linear == "ternary":
        # The weights are latent: they mean what they mean only when a loader ternarises them as it goes.
        config["quantization_config"] = {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
            "modules_to_not_convert": ["lm_head"],
        }
    return config


def _rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    return {_SCALING_KEYS.get(key, key): value for key, value in to_mapping(scaling).items()}
