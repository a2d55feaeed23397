"""Verify keys: the metadata of a GGUF file against a contract; it shares nothing with the writer of those keys."""

import math
import struct
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.contract.spec import Contract, ModelSpec, TokenizerSpec
from conform.core.gguf.read import GGUFFile, GGUFValue, KeyType
from conform.core.gguf.types import ValueType, ggml_type
from conform.core.i2_s.format import I2_S, LAYOUT_KEY, LAYOUTS
from conform.core.tokenizer.vocabulary import PIECE_TYPES
from conform.core.verify.foreign_keys import PREFIX, check_foreign_keys

__all__ = ["NO_SUCH_KEY", "check_keys"]

NO_SUCH_KEY = "no such key"
"""What is found where a key is missing that the contract asks for."""

_STRING = KeyType(ValueType.STRING)
_U32 = KeyType(ValueType.UINT32)
_F32 = KeyType(ValueType.FLOAT32)
_BOOL = KeyType(ValueType.BOOL)
_STRINGS = KeyType(ValueType.ARRAY, ValueType.STRING)
_F32S = KeyType(ValueType.ARRAY, ValueType.FLOAT32)
_I32S = KeyType(ValueType.ARRAY, ValueType.INT32)

# Values of tokenizer.ggml.token_type.
_NORMAL, _BYTE = 1, 6

# Keys that other tools write and that change nothing in what a runtime computes for these architectures. Those of the
# tokenizer are looked at one by one.
_HARMLESS = ("general.", "conform.", "quantize.", "tokenizer.chat_template", PREFIX)


@dataclass(frozen=True, slots=True)
class _Expected:
    """One key: its type, and its value where the contract fixes it."""

    kind: KeyType
    value: str | int | float | bool | None = None


def check_keys(file: GGUFFile, contract: Contract) -> list[Finding]:
    """Every key that is missing, unknown to the architecture, of another type or of another value."""
    expected = _expected(contract)
    findings = [finding for key, what in expected.items() for finding in _check_key(file, key, what)]
    optional = _optional(contract)
    findings += [
        finding for key in optional if key in file.metadata for finding in _check_key(file, key, optional[key])
    ]
    findings += _unknown(file, expected.keys() | optional.keys(), contract.model.architecture)
    findings += check_foreign_keys(file, frozenset(expected.keys() | optional.keys()), contract.tokenizer)
    findings += _check_tokenizer(file, contract)
    findings += _check_kinds(file, contract.tokenizer)
    findings += _check_merges(file)
    findings += _check_file_type(file)
    findings += _check_i2_s_layout(file)
    return findings


def _expected(contract: Contract) -> Mapping[str, _Expected]:
    model = contract.model
    arch = model.architecture
    return {
        "general.architecture": _Expected(_STRING, arch),
        "general.quantization_version": _Expected(_U32, 2),
        f"{arch}.block_count": _Expected(_U32, model.layers),
        f"{arch}.context_length": _Expected(_U32, model.context),
        f"{arch}.embedding_length": _Expected(_U32, model.hidden),
        f"{arch}.feed_forward_length": _Expected(_U32, model.ffn),
        f"{arch}.vocab_size": _Expected(_U32, model.vocab),
        f"{arch}.attention.head_count": _Expected(_U32, model.heads),
        f"{arch}.attention.head_count_kv": _Expected(_U32, model.kv_heads),
        f"{arch}.attention.key_length": _Expected(_U32, model.head_dim),
        f"{arch}.attention.value_length": _Expected(_U32, model.head_dim),
        f"{arch}.attention.layer_norm_rms_epsilon": _Expected(_F32, _single(model.norm_eps)),
        f"{arch}.rope.dimension_count": _Expected(_U32, model.rope_dim),
        f"{arch}.rope.freq_base": _Expected(_F32, _single(model.rope_base)),
        **_expected_scaling(model),
        **_tokenizer_keys(contract.tokenizer),
    }


def _tokenizer_keys(tokenizer: TokenizerSpec) -> Mapping[str, _Expected]:
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unknown": tokenizer.unk_id, "padding": tokenizer.pad_id}
    return {
        "tokenizer.ggml.tokens": _Expected(_STRINGS),
        "tokenizer.ggml.token_type": _Expected(_I32S),
        "tokenizer.ggml.add_bos_token": _Expected(_BOOL, tokenizer.add_bos),
        **{f"tokenizer.ggml.{role}_token_id": _Expected(_U32, number) for role, number in ids.items() if number >= 0},
        **(_byte_level_keys if tokenizer.model == "byte-level" else _sentencepiece_keys)(tokenizer),
    }


def _sentencepiece_keys(tokenizer: TokenizerSpec) -> Mapping[str, _Expected]:
    return {
        "tokenizer.ggml.model": _Expected(_STRING, "llama"),
        "tokenizer.ggml.scores": _Expected(_F32S),
        "tokenizer.ggml.add_space_prefix": _Expected(_BOOL, tokenizer.add_dummy_prefix),
        **_required_eos(tokenizer),
    }


def _byte_level_keys(tokenizer: TokenizerSpec) -> Mapping[str, _Expected]:
    return {
        "tokenizer.ggml.model": _Expected(_STRING, "gpt2"),
        "tokenizer.ggml.pre": _Expected(_STRING, tokenizer.pre),
        "tokenizer.ggml.merges": _Expected(_STRINGS),
        **_required_eos(tokenizer),
    }


def _required_eos(tokenizer: TokenizerSpec) -> Mapping[str, _Expected]:
    return {"tokenizer.ggml.add_eos_token": _Expected(_BOOL, True)} if tokenizer.add_eos else {}


def _expected_scaling(model: ModelSpec) -> Mapping[str, _Expected]:
    """The keys of linear scaling and YaRN; Llama 3's is the tensor rope_freqs.weight and no key."""
    scaling, keys = model.rope_scaling, f"{model.architecture}.rope.scaling"
    if scaling is None or scaling.kind == "llama3":
        return {}
    expected = {
        f"{keys}.type": _Expected(_STRING, scaling.kind),
        f"{keys}.factor": _Expected(_F32, _single(scaling.factor)),
    }
    if scaling.original_context is not None:
        expected[f"{keys}.original_context_length"] = _Expected(_U32, scaling.original_context)
    magnitude = _yarn_attn_factor(model)
    return expected if magnitude == 1 else expected | {f"{keys}.attn_factor": _Expected(_F32, magnitude)}


def _optional_scaling(model: ModelSpec) -> Mapping[str, _Expected]:
    """What runtimes do for YaRN anyway: the usual bounds of its range, and the magnitude that it suggests."""
    keys = f"{model.architecture}.rope.scaling"
    if model.rope_scaling is None or model.rope_scaling.kind != "yarn":
        return {}
    usual = {"yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0}
    if _yarn_attn_factor(model) == 1:
        usual["attn_factor"] = 1.0
    return {f"{keys}.{name}": _Expected(_F32, value) for name, value in usual.items()}


def _yarn_attn_factor(model: ModelSpec) -> float:
    """What a runtime must multiply YaRN's own magnitude by, 0.1 ln(factor) + 1, to get the contract's; 1 without."""
    scaling = model.rope_scaling
    if scaling is None or scaling.attention_factor is None:
        return 1.0
    return _single(scaling.attention_factor / (1.0 + 0.1 * math.log(max(scaling.factor, 1.0))))


def _optional(contract: Contract) -> Mapping[str, _Expected]:
    """Keys that a file may leave out, because runtimes then do what the contract says anyway."""
    return {
        **_optional_scaling(contract.model),
        "general.type": _Expected(_STRING, "model"),
        **(
            _optional_byte_level(contract)
            if contract.tokenizer.model == "byte-level"
            else _optional_sentencepiece(contract)
        ),
        # Other tools name a padding token where the contract has none; nothing is padded when one text is run.
        "tokenizer.ggml.padding_token_id": _Expected(_U32),
    }


def _optional_sentencepiece(contract: Contract) -> Mapping[str, _Expected]:
    return {
        "tokenizer.ggml.pre": _Expected(_STRING, "default"),
        "tokenizer.ggml.add_eos_token": _Expected(_BOOL, contract.tokenizer.add_eos),
        "tokenizer.ggml.remove_extra_whitespaces": _Expected(_BOOL, contract.tokenizer.remove_extra_whitespaces),
    }


def _optional_byte_level(contract: Contract) -> Mapping[str, _Expected]:
    return {
        "tokenizer.ggml.add_eos_token": _Expected(_BOOL, contract.tokenizer.add_eos),
        "tokenizer.ggml.add_space_prefix": _Expected(_BOOL, False),
        "tokenizer.ggml.remove_extra_whitespaces": _Expected(_BOOL, False),
        "tokenizer.ggml.scores": _Expected(_F32S),  # nothing is merged by them
    }


def _check_key(file: GGUFFile, key: str, expected: _Expected) -> Iterator[Finding]:
    if key not in file.metadata:
        wanted = str(expected.kind) if expected.value is None else f"{expected.kind} {expected.value!r}"
        yield Finding("error", key, wanted, NO_SUCH_KEY, "a runtime would silently use a default instead")
        return
    found, kind = (file.metadata[key], file.key_types[key])
    if kind != expected.kind:
        yield Finding("error", key, str(expected.kind), str(kind))
    elif expected.value is not None and found != expected.value:
        yield Finding("error", key, repr(expected.value), _short(found))


def _unknown(file: GGUFFile, known: Set[str], architecture: str) -> Iterator[Finding]:
    for key in file.metadata:
        if key in known or key.startswith(_HARMLESS):
            continue
        # Something like rope.scaling.factor changes what a runtime computes.
        severe = key.startswith(f"{architecture}.")
        hint = "the contract does not mention it, and a runtime may obey it" if severe else ""
        yield Finding("error" if severe else "warning", key, "no such key", _short(file.metadata[key]), hint)


def _check_tokenizer(file: GGUFFile, contract: Contract) -> Iterator[Finding]:
    vocab = contract.model.vocab
    for part in ("tokens", "scores", "token_type"):
        values = file.metadata.get(f"tokenizer.ggml.{part}")
        if isinstance(values, list) and len(values) != vocab:
            yield Finding("error", f"tokenizer.ggml.{part}", f"{vocab} items", f"{len(values)} items")
    yield from _check_tokens(_items(file, "tokens"))
    for number, score in enumerate(_items(file, "scores")):
        if isinstance(score, float) and not math.isfinite(score):
            yield Finding("error", f"tokenizer.ggml.scores[{number}]", "a finite number", str(score))
    for number, kind in enumerate(_items(file, "token_type")):
        if kind not in PIECE_TYPES:
            yield Finding("error", f"tokenizer.ggml.token_type[{number}]", "a type from 1 to 6", str(kind))
    for key in (key for key in file.metadata if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")):
        special = file.metadata[key]
        if not isinstance(special, int) or not 0 <= special < vocab:
            yield Finding("error", key, f"an id below {vocab}", _short(special))


def _items(file: GGUFFile, part: str) -> list[object]:
    values = file.metadata.get(f"tokenizer.ggml.{part}")
    return list(values) if isinstance(values, list) else []


def _check_tokens(tokens: list[object]) -> Iterator[Finding]:
    first: dict[object, int] = {}
    for number, token in enumerate(tokens):
        where = f"tokenizer.ggml.tokens[{number}]"
        if token == "":
            yield Finding("error", where, "a text", "an empty string")
        elif token in first:
            yield Finding("error", where, "a text of its own", f"that of token {first[token]}: {token!r}")
        first.setdefault(token, number)


def _check_kinds(file: GGUFFile, tokenizer: TokenizerSpec) -> Iterator[Finding]:
    """Special tokens of a kind that text becomes, and bytes that have no token."""
    kinds = _items(file, "token_type")
    for role, number in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        if 0 <= number < len(kinds) and kinds[number] in (_NORMAL, _BYTE):
            where = f"tokenizer.ggml.token_type[{number}]"
            yield Finding("error", where, f"control, as {role}_id needs it", "a token that text becomes")
    count = kinds.count(_BYTE)
    if tokenizer.byte_fallback and count != 256 and {*kinds} <= PIECE_TYPES.keys():
        yield Finding("error", "tokenizer.ggml.token_type", "256 tokens of type byte", str(count))


def _check_merges(file: GGUFFile) -> Iterator[Finding]:
    """Every merge that does not join two tokens to a third, or that occurs twice."""
    tokens, seen = {*_items(file, "tokens")}, set()
    for number, merge in enumerate(_items(file, "merges")):
        left, _, right = str(merge).partition(" ")
        if not tokens >= {left, right, left + right} or merge in seen:
            yield Finding(
                "error", f"tokenizer.ggml.merges[{number}]", "two tokens that make a third, once", _short(str(merge))
            )
        seen.add(merge)


def _check_file_type(file: GGUFFile) -> Iterator[Finding]:
    stated = file.metadata.get("general.file_type")
    if stated is None:
        return
    linear = {t.ggml_type for t in file.tensors.values() if len(t.shape) == 2 and t.name.startswith("blk.")}
    kinds = [ggml_type(number) for number in sorted(linear)]
    if not any(kind is not None and kind.ftype == stated for kind in kinds):
        names = ", ".join(kind.name if kind else "unknown" for kind in kinds) or "nothing"
        yield Finding("warning", "general.file_type", f"the file type of {names}", _short(stated))


def _check_i2_s_layout(file: GGUFFile) -> Iterator[Finding]:
    stated = file.metadata.get(LAYOUT_KEY)
    has_i2_s = any(tensor.ggml_type == I2_S for tensor in file.tensors.values())
    if stated is not None and (stated not in LAYOUTS or not has_i2_s):
        expected = f"one of {', '.join(LAYOUTS)}" if has_i2_s else "no such key without i2_s tensors"
        yield Finding("error", LAYOUT_KEY, expected, _short(stated))


def _single(value: float) -> float:
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return single


def _short(value: GGUFValue) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
