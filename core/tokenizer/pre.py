"""Pre-tokenizer: how a byte-level BPE cuts text into words, and the name by which llama.cpp knows what one does.

Two pre-tokenizers are the same when they cut a probe corpus into the same words; how they are written does not matter.
The library `tokenizers` runs both, so that what a file means is what its own library makes of it.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from conform.core.tokenizer.pre_words import strange_words_digest, words_digest

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "adds_bos", "name_pre_tokenizer", "pre_tokenizer_named"]

# From impl::load of llama.cpp's src/llama-vocab.cpp.
_BOS_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken")

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting, as a tokenizer.json writes it, and all of llama.cpp's names for it, ours first.

    With `ignore_merges` a word that is a piece is that piece, whatever merging its bytes would give.
    """

    names: tuple[str, ...]
    definition: Mapping[str, Any]
    ignore_merges: bool = False

    @property
    def name(self) -> str:
        """The name that is written."""
        return self.names[0]


def _split(pattern: str) -> Mapping[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bytes(*, use_regex: bool) -> Mapping[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*parts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


_ANY_DIGIT: Mapping[str, Any] = {"type": "Digits", "individual_digits": True}
_AS_BYTES = _bytes(use_regex=False)

# From `llm_tokenizer_bpe` and `impl::load` of llama.cpp's src/llama-vocab.cpp. Where llama.cpp adapts a pattern to what
# its own matcher can do, the pattern of the models' tokenizer.json stands here, because that is what they were trained
# with. Names that also add a separator or change the decoding of special tokens are left out.
_KNOWN = (
    PreTokenizer(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling", "modern-bert"),
        _bytes(use_regex=True),
    ),
    PreTokenizer(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        _sequence(_ANY_DIGIT, _bytes(use_regex=True)),
    ),
    PreTokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
        _sequence(_split(_LLAMA3), _AS_BYTES),
        ignore_merges=True,
    ),
    PreTokenizer(("dbrx", "smaug-bpe", "chatglm-bpe"), _sequence(_split(_LLAMA3), _AS_BYTES)),
    PreTokenizer(
        ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open", "grok-2"),
        _sequence(_split(_QWEN2), _AS_BYTES),
    ),
    PreTokenizer(("tekken",), _sequence(_split(_TEKKEN), _AS_BYTES), ignore_merges=True),
    PreTokenizer(
        ("deepseek-coder",),
        _sequence(
            *map(_split, (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
            _AS_BYTES,
        ),
    ),
    PreTokenizer(
        ("default",),
        _sequence(
            *map(_split, (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
            _AS_BYTES,
        ),
    ),
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType({known.name: known for known in _KNOWN})
"""The pre-tokenizers by the name that is written."""


def pre_tokenizer_named(name: str) -> PreTokenizer | None:
    """The pre-tokenizer that llama.cpp calls so, None for any that is not known here."""
    return next((known for known in _KNOWN if name in known.names), None)


def name_pre_tokenizer(definition: Mapping[str, Any], ignore_merges: bool) -> str:
    """The name of the pre-tokenizer that cuts every probe into the same words and agrees in `ignore_merges`.

    `definition` is what a tokenizer.json says under `pre_tokenizer`. Raises ValueError when there is none.
    """
    known = [candidate for candidate in _KNOWN if candidate.ignore_merges == ignore_merges]
    outline = f"its pre_tokenizer ({_outline(definition)})"
    try:
        digest = strange_words_digest(json.dumps(definition))
    except ValueError as error:
        raise ValueError(f"{outline} cannot be used: {error}") from error
    for candidate in known:
        if _known_digest(candidate.name) == digest:
            return candidate.name
    setting = f"with ignore_merges = {str(ignore_merges).lower()}"
    names = ", ".join(candidate.name for candidate in known)
    raise ValueError(f"{outline} {setting} does not cut text as any of {names} does")


@functools.cache
def _known_digest(name: str) -> str:
    return words_digest(json.dumps(PRE_TOKENIZERS[name].definition))


def _outline(definition: Mapping[str, Any]) -> str:
    parts = definition.get("pretokenizers")
    if not isinstance(parts, list):
        return f"{definition.get('type')!s:.40}"
    return f"{', '.join(str(part.get('type')) for part in parts if isinstance(part, dict)):.100}"


def adds_bos(metadata: Mapping[str, object]) -> bool:
    """Whether llama.cpp puts BOS before a text, by a GGUF file's keys, where none of them says it."""
    return metadata.get("tokenizer.ggml.model") != "gpt2" or metadata.get("tokenizer.ggml.pre") in _BOS_BY_DEFAULT
