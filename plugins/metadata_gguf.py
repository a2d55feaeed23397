"""GGUF metadata: every key that a runtime needs, and the provenance that binds the file to what it was made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from conform.contract.rope import yarn_magnitude
from conform.contract.spec import ModelSpec, RopeScaling, TokenizerSpec
from conform.core.gguf.types import ggml_type
from conform.core.i2_s.format import I2_S, LAYOUT_KEY, layout_of_variant
from conform.core.metadata import (
    ExportFacts,
    KeyValue,
    MetadataWriter,
    boolean,
    f32,
    f32_array,
    i32_array,
    string,
    string_array,
    u32,
)
from conform.core.tokenizer.vocabulary import Vocabulary
from conform.plugins.hookspecs import hookimpl

__all__ = ["GGUFMetadata", "conform_metadata_writers"]

# GGML_QNT_VERSION: the version of ggml's block formats.
_QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class GGUFMetadata:
    """`general.*`, the architecture's keys, `tokenizer.ggml.*` and `conform.*`; counts are u32."""

    name: ClassVar[str] = "gguf"

    def keys(self, facts: ExportFacts) -> Mapping[str, KeyValue]:
        """The keys in the order in which the file holds them."""
        return {
            **_general(facts),
            **_architecture(facts.contract.model),
            **_tokenizer(facts.vocabulary, facts.contract.tokenizer),
            **_chat_template(facts.vocabulary),
            **_provenance(facts),
        }


@hookimpl
def conform_metadata_writers() -> Iterable[MetadataWriter]:
    return (GGUFMetadata(),)


def _general(facts: ExportFacts) -> dict[str, KeyValue]:
    keys = {
        "general.architecture": string(facts.contract.model.architecture),
        "general.type": string("model"),
        "general.name": string(facts.contract.name),
        "general.quantization_version": u32(_QUANTIZATION_VERSION),
        "general.alignment": u32(facts.alignment),
    }
    # A mix of types, or a type that only a plugin knows, has no file type; leaving it out is better than misleading.
    kinds = [ggml_type(layout.ggml_type) for layout in facts.linear_layouts]
    if len(kinds) == 1 and kinds[0] is not None and kinds[0].ftype is not None:
        keys["general.file_type"] = u32(kinds[0].ftype)
    return keys


def _architecture(model: ModelSpec) -> dict[str, KeyValue]:
    keys = {
        "block_count": u32(model.layers),
        "context_length": u32(model.context),
        "embedding_length": u32(model.hidden),
        "feed_forward_length": u32(model.ffn),
        "vocab_size": u32(model.vocab),
        "attention.head_count": u32(model.heads),
        "attention.head_count_kv": u32(model.kv_heads),
        "attention.key_length": u32(model.head_dim),
        "attention.value_length": u32(model.head_dim),
        "attention.layer_norm_rms_epsilon": f32(model.norm_eps),
        "rope.dimension_count": u32(model.rope_dim),
        "rope.freq_base": f32(model.rope_base),
        **_rope_scaling(model.rope_scaling),
    }
    return {f"{model.architecture}.{key}": value for key, value in keys.items()}


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, KeyValue]:
    """As llama.cpp reads it; what Llama 3 does is not in keys, but in the tensor rope_freqs.weight."""
    if scaling is None or scaling.kind == "llama3":
        return {}
    keys = {"rope.scaling.type": string(scaling.kind), "rope.scaling.factor": f32(scaling.factor)}
    if scaling.original_context is not None:
        keys["rope.scaling.original_context_length"] = u32(scaling.original_context)
    if scaling.attention_factor is not None:
        # A runtime multiplies what YaRN suggests for the factor by this.
        keys["rope.scaling.attn_factor"] = f32(scaling.attention_factor / yarn_magnitude(scaling.factor))
    betas = {"yarn_beta_fast": scaling.beta_fast, "yarn_beta_slow": scaling.beta_slow}
    return keys | {f"rope.scaling.{name}": f32(value) for name, value in betas.items() if value is not None}


def _tokenizer(vocabulary: Vocabulary, spec: TokenizerSpec) -> dict[str, KeyValue]:
    return (_byte_level if vocabulary.model == "byte-level" else _sentencepiece)(vocabulary, spec)


def _sentencepiece(vocabulary: Vocabulary, spec: TokenizerSpec) -> dict[str, KeyValue]:
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": string_array(vocabulary.pieces),
        "tokenizer.ggml.scores": f32_array(vocabulary.scores),
        "tokenizer.ggml.token_type": i32_array(vocabulary.types),
        **_special_ids(vocabulary),
        "tokenizer.ggml.add_bos_token": boolean(spec.add_bos),
        "tokenizer.ggml.add_eos_token": boolean(spec.add_eos),
        "tokenizer.ggml.add_space_prefix": boolean(vocabulary.add_dummy_prefix),
        "tokenizer.ggml.remove_extra_whitespaces": boolean(vocabulary.remove_extra_whitespaces),
    }


def _byte_level(vocabulary: Vocabulary, spec: TokenizerSpec) -> dict[str, KeyValue]:
    """As llama.cpp's converter writes them, which at times leaves out add_bos_token and add_eos_token."""
    return {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string(vocabulary.pre),
        "tokenizer.ggml.tokens": string_array(vocabulary.pieces),
        "tokenizer.ggml.token_type": i32_array(vocabulary.types),
        "tokenizer.ggml.merges": string_array(vocabulary.merges),
        **_special_ids(vocabulary),
        "tokenizer.ggml.add_bos_token": boolean(spec.add_bos),
        "tokenizer.ggml.add_eos_token": boolean(spec.add_eos),
    }


def _special_ids(vocabulary: Vocabulary) -> dict[str, KeyValue]:
    ids = {
        "bos": vocabulary.bos_id,
        "eos": vocabulary.eos_id,
        "unknown": vocabulary.unk_id,
        "padding": vocabulary.pad_id,
    }
    return {f"tokenizer.ggml.{role}_token_id": u32(number) for role, number in ids.items() if number >= 0}


def _chat_template(vocabulary: Vocabulary) -> dict[str, KeyValue]:
    template = vocabulary.chat_template
    return {} if template is None else {"tokenizer.chat_template": string(template)}


def _provenance(facts: ExportFacts) -> dict[str, KeyValue]:
    keys = {
        "conform.contract.name": string(facts.contract.name),
        "conform.contract.digest": string(facts.contract.digest),
        "conform.contract": string(facts.contract.canonical()),
        "conform.checkpoint.digest": string(facts.checkpoint_digest),
        "conform.tokenizer.digest": string(facts.vocabulary.provenance or facts.vocabulary.digest),
        "conform.quantizers": string_array(facts.quantizers),
        "conform.plugins": string_array(facts.plugins),
    }
    for layout in facts.linear_layouts:
        if layout.ggml_type == I2_S:
            # Nothing else in a file shows which of the known byte orders its i2_s tensors have.
            keys[LAYOUT_KEY] = string(layout_of_variant(layout.variant))
    return keys
