"""Infer: the contract that a Hugging Face configuration describes, or why none can."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.mapping import from_mapping, shown
from conform.contract.spec import Contract, StoragePolicy, TokenizerSpec

__all__ = ["SENTENCEPIECE_BPE", "STANDARD_STORAGE", "contract_from_hf_config"]

SENTENCEPIECE_BPE = TokenizerSpec(
    model="bpe",
    byte_fallback=True,
    normalization="identity",
    add_dummy_prefix=True,
    remove_extra_whitespaces=False,
    unk_id=0,
    bos_id=1,
    eos_id=2,
    pad_id=-1,
    add_bos=True,
    sha256="",
)
STANDARD_STORAGE = StoragePolicy(norm="f32", embedding="f16", output="f16", linear="quant")

# model_type → (architecture, sub-norms, linear kind, the activation it must name)
_FAMILIES = {"llama": ("llama", False, "dense", "silu"), "bitnet": ("bitnet-b1.58", True, "ternary", "relu2")}
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def contract_from_hf_config(config: Mapping[str, Any], name: str) -> Contract:
    """The contract that `config.json` describes, with the SentencePiece recipe and storage of the shipped contracts.

    Raises ContractError naming the key when the model is not a Llama-style decoder that a contract can express.
    """
    where = f"{name}: config.json"
    family = _FAMILIES.get(_text(config.get("model_type")))
    if family is None:
        raise ContractError(
            f"{where}: model_type = {shown(config.get('model_type'))}: expected {' or '.join(_FAMILIES)}"
        )
    architecture, sub_norms, linear, activation = family
    _refuse_what_no_contract_expresses(config, activation, where)
    heads = _whole(config, "num_attention_heads", where)
    hidden = _whole(config, "hidden_size", where)
    head_dim = _whole(config, "head_dim", where) if config.get("head_dim") is not None else hidden // max(heads, 1)
    model = {
        "architecture": architecture,
        "layers": _whole(config, "num_hidden_layers", where),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _whole(config, "num_key_value_heads", where)
        if config.get("num_key_value_heads") is not None
        else heads,
        "head_dim": head_dim,
        "ffn": _whole(config, "intermediate_size", where),
        "vocab": _whole(config, "vocab_size", where),
        "context": _whole(config, "max_position_embeddings", where),
        "rope_base": _rope(config).get("rope_theta", config.get("rope_theta", 10000.0)),
        "rope_dim": head_dim,
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "tied_embeddings": False if config.get("tie_word_embeddings") is None else config["tie_word_embeddings"],
        "sub_norms": sub_norms,
        "linear": linear,
        "dtype": _DTYPES.get(_text(config.get("dtype") or config.get("torch_dtype")), "f32"),
    }
    sections = {
        "tokenizer": dataclasses.asdict(SENTENCEPIECE_BPE) | _special_ids(config),
        "storage": dataclasses.asdict(STANDARD_STORAGE),
    }
    why = "Inferred from the checkpoint's config.json."
    return from_mapping(Contract, {"name": name, "why": why, "model": model, **sections}, where)


def _special_ids(config: Mapping[str, Any]) -> dict[str, int]:
    ids = {"bos_id": config.get("bos_token_id"), "eos_id": config.get("eos_token_id")}
    return {key: value for key, value in ids.items() if isinstance(value, int) and not isinstance(value, bool)}


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers 5 writes rope_parameters, earlier ones rope_scaling beside rope_theta.
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    return rope if isinstance(rope, Mapping) else {}


def _refuse_what_no_contract_expresses(config: Mapping[str, Any], activation: str, where: str) -> None:
    kind = _rope(config).get("rope_type", _rope(config).get("type", "default"))
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(config.get(key), Mapping | None):
            raise ContractError(f"{where}: {key} = {shown(config[key])}: expected a JSON object or null")
    refusals = {
        "hidden_act": (config.get("hidden_act", activation), (activation,)),
        "attention_bias": (config.get("attention_bias", False), (False, None)),
        "mlp_bias": (config.get("mlp_bias", False), (False, None)),
        "rope scaling": (kind, ("default",)),
        "partial_rotary_factor": (config.get("partial_rotary_factor", 1.0), (1.0, None)),
    }
    for key, (found, accepted) in refusals.items():
        if found not in accepted:
            raise ContractError(f"{where}: {key} = {shown(found)}: a contract can express {accepted[0]!r} only")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(config: Mapping[str, Any], key: str, where: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ContractError(f"{where}: {key} = {shown(value)}: expected a whole number")
    return value
