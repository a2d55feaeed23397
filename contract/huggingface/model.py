"""Model: the facts of a contract's model that a config.json decides, each with where it comes from."""

from collections.abc import Mapping
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.huggingface.rope import rope_base, rope_scaling
from conform.contract.huggingface.settings import Decided, Settings
from conform.contract.quantisation import PLAIN, Stored
from conform.contract.spec import LinearKind

__all__ = ["model_facts"]

# What the training's number format was called; float64 is read as float32, in which conform computes.
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f32"}
_LINEAR: Mapping[str, LinearKind] = {
    "plain": "dense",
    "bitnet-online": "ternary",
    "bitnet-packed": "ternary-stored",
    "fp8-blocks": "dense",
}
_MODEL_TYPE = "model_type"


def model_facts(settings: Settings, stored: Stored) -> dict[str, Decided[Any]]:
    """Every field of the model, under its name.

    Raises ContractError for a key that is missing, contradicts another one, or says what no contract can express.
    """
    family = settings.family
    _check_words(settings)
    hidden, heads = settings.whole("hidden_size"), settings.whole("num_attention_heads")
    head_dim = _head_dim(settings, hidden.value, heads.value)
    context = _context(settings)
    return {
        "architecture": Decided(family.architecture, f"{_MODEL_TYPE} = {settings.config[_MODEL_TYPE]}"),
        "layers": settings.whole("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": _kv_heads(settings, heads.value),
        "head_dim": head_dim,
        "ffn": settings.whole("intermediate_size"),
        "vocab": settings.whole("vocab_size"),
        "context": context,
        "rope_base": rope_base(settings),
        "rope_dim": Decided(head_dim.value, "the whole head"),
        "norm_eps": settings.number("rms_norm_eps"),
        "tied_embeddings": settings.flag("tie_word_embeddings"),
        "sub_norms": Decided(family.sub_norms, f"{_MODEL_TYPE} = {settings.config[_MODEL_TYPE]}"),
        "linear": _linear(stored),
        "dtype": _dtype(settings),
        "rope_scaling": rope_scaling(settings, context.value),
    }


def _check_words(settings: Settings) -> None:
    """Pass when the class is a language model of the family and the activation the family's."""
    settings.choice("hidden_act", settings.family.activations)
    classes = settings.config.get("architectures")
    if classes is not None and (
        not isinstance(classes, list) or not all(name in settings.family.classes for name in classes)
    ):
        raise settings.refusal("architectures", classes, f"a list of {' or '.join(settings.family.classes)}, or null")


def _head_dim(settings: Settings, hidden: int, heads: int) -> Decided[int]:
    if not settings.says("head_dim"):
        if hidden % max(heads, 1):
            raise settings.refusal(
                "hidden_size", hidden, f"a multiple of num_attention_heads = {heads} without head_dim"
            )
        return Decided(hidden // max(heads, 1), "hidden_size / num_attention_heads, as head_dim says nothing")
    return settings.whole("head_dim")


def _kv_heads(settings: Settings, heads: int) -> Decided[int]:
    key = "num_key_value_heads"
    absent = settings.config.get(key, settings.family.absent.get(key)) is None
    counted = Decided(heads, f"num_attention_heads, as {key} says nothing") if absent else settings.whole(key)
    if settings.says("multi_query") and settings.flag("multi_query").value != (counted.value == 1):
        raise settings.disagreement([("multi_query", settings.config["multi_query"]), (key, counted.value)])
    return counted


def _context(settings: Settings) -> Decided[int]:
    context = settings.whole("max_position_embeddings")
    window = settings.config.get("sliding_window", settings.family.absent.get("sliding_window"))
    if window is None:
        return context
    window = settings.whole("sliding_window")
    if window.value < context.value:
        expected = f"null, or no less than max_position_embeddings = {context.value}; a contract has no sliding window"
        raise ContractError(f"{settings.where}: sliding_window = {window.value} ({window.source}): expected {expected}")
    return context


def _linear(stored: Stored) -> Decided[LinearKind]:
    rule = "quantization_config says nothing, so the layers compute with the stored weights"
    return Decided(_LINEAR[stored.weights], rule if stored == PLAIN else f"quantization_config ({stored.weights})")


def _dtype(settings: Settings) -> Decided[str]:
    named = [settings.choice(key, tuple(_DTYPES)) for key in ("dtype", "torch_dtype") if settings.says(key)]
    if any(dtype.value != named[0].value for dtype in named):
        raise settings.disagreement([(dtype.source, dtype.value) for dtype in named])
    found = named[0] if named else settings.default("dtype")
    return Decided(_DTYPES[found.value], found.source)
