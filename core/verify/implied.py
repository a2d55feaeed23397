"""Implied: the contract that a GGUF file's own keys and tensors describe, where it carries none.

What a key leaves out means what llama.cpp takes it for; what llama.cpp refuses to do without is refused here too.
"""

from collections.abc import Mapping

import numpy as np

from conform.contract.infer import STANDARD_STORAGE
from conform.contract.mapping import from_mapping, to_mapping
from conform.contract.rope import yarn_magnitude
from conform.contract.spec import Contract, RopeScaling
from conform.core.errors import GGUFError
from conform.core.gguf.keys import ModelKeys
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import I2_S, ggml_type
from conform.core.tokenizer.pre import adds_bos

__all__ = ["implied_contract"]

_ARCHITECTURES = {"llama": "llama", "bitnet-b1.58": "bitnet-b1.58", "bitnet": "bitnet-b1.58"}
_MODELS = {"llama": "bpe", "gpt2": "byte-level"}
# Ids that llama.cpp takes for a SentencePiece vocabulary whose keys do not name them.
_USUAL_IDS = {"bos": 1, "eos": 2, "unknown": 0}
_YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def implied_contract(file: GGUFFile) -> Contract:
    """The contract that this file conforms to if it is sound, named after the file.

    Raises GGUFError naming the key or tensor without which nothing can be said, or that no contract can express.
    """
    keys = ModelKeys(file)
    if keys.architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GGUFError(f"{file.path}: architecture {keys.architecture!r:.80}: a contract can express {known}")
    sections = {"model": _model(file, keys), "tokenizer": _tokenizer(file), "storage": _storage(file)}
    name = "".join(letter for letter in file.path.stem if letter.isprintable()) or "file"
    values = {"name": name, "why": "Implied by the keys of a GGUF file.", **sections}
    return from_mapping(Contract, values, str(file.path))


def _model(file: GGUFFile, keys: ModelKeys) -> Mapping[str, object]:
    heads = keys.whole("attention.head_count")
    vocab, hidden = keys.shape("token_embd.weight")
    width = keys.shape("blk.0.attn_q.weight")[0]
    head_dim = keys.whole("attention.key_length", width // heads or None)
    ternary = file.tensors["blk.0.attn_q.weight"].ggml_type == I2_S
    scaling = _scaling(file, keys)
    return {
        "architecture": _ARCHITECTURES[keys.architecture],
        "layers": keys.whole("block_count"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn": keys.whole("feed_forward_length"),
        "vocab": vocab,
        "context": keys.whole("context_length"),
        "rope_base": _shortest(keys.number("rope.freq_base", 10000.0)),
        "rope_dim": keys.whole("rope.dimension_count", head_dim),
        "norm_eps": _shortest(keys.number("attention.layer_norm_rms_epsilon")),
        "tied_embeddings": "output.weight" not in file.tensors,
        "sub_norms": "blk.0.attn_sub_norm.weight" in file.tensors,
        "linear": "ternary-stored" if ternary else "dense",
        "dtype": "f32",
        "rope_scaling": scaling and to_mapping(scaling),
    }


def _shortest(value: float) -> float:
    """The shortest decimal number that a file would store as this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _scaling(file: GGUFFile, keys: ModelKeys) -> RopeScaling | None:
    if "rope_freqs.weight" in file.tensors:
        raise GGUFError(
            f"{file.path}: rope_freqs.weight does not say by which parameters it was computed; name the contract with "
            "--contract"
        )
    kind = keys.text("rope.scaling.type", "none")
    if kind in {"", "none"}:
        return None
    if kind not in {"linear", "yarn"}:
        raise GGUFError(f"{file.path}: rope scaling {kind!r:.80}: a contract can express linear and yarn from keys")
    factor = keys.number("rope.scaling.factor")
    if kind == "linear":
        return RopeScaling("linear", factor)
    context = keys.whole("rope.scaling.original_context_length", keys.whole("context_length"))
    magnitude = yarn_magnitude(factor) * keys.number("rope.scaling.attn_factor", 1.0)
    return RopeScaling("yarn", factor, context, **_YARN_BETAS, attention_factor=magnitude)


def _storage(file: GGUFFile) -> Mapping[str, object]:
    """Embedding and output as they are stored; the layers may be of any type."""
    embedding = _type_name(file, "token_embd.weight")
    output = _type_name(file, "output.weight") if "output.weight" in file.tensors else embedding
    return to_mapping(STANDARD_STORAGE) | {"embedding": embedding, "output": output}


def _type_name(file: GGUFFile, tensor: str) -> str:
    kind = ggml_type(file.tensors[tensor].ggml_type)
    return kind.name if kind else STANDARD_STORAGE.linear


def _tokenizer(file: GGUFFile) -> Mapping[str, object]:
    keys = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items()}
    model = _MODELS.get(str(keys.get("model")))
    if model is None:
        known = ", ".join(_MODELS)
        raise GGUFError(
            f"{file.path}: tokenizer.ggml.model = {keys.get('model')!r:.80}: a contract can express {known}"
        )
    sentencepiece = model == "bpe"
    usual = _USUAL_IDS if sentencepiece else {}
    ids = {role: keys.get(f"{role}_token_id", usual.get(role, -1)) for role in ("bos", "eos", "unknown", "padding")}
    pre = "" if sentencepiece else keys.get("pre", "default")
    return {
        "model": model,
        "byte_fallback": sentencepiece,
        "normalization": "identity",
        "add_dummy_prefix": keys.get("add_space_prefix", sentencepiece),
        "remove_extra_whitespaces": keys.get("remove_extra_whitespaces", False),
        "unk_id": ids["unknown"],
        "bos_id": ids["bos"],
        "eos_id": ids["eos"],
        "pad_id": ids["padding"],
        "add_bos": keys.get("add_bos_token", adds_bos(file.metadata)),
        "sha256": "",
        "add_eos": keys.get("add_eos_token", False),
        "pre": pre,
    }
