"""Foreign keys: `tokenizer.ggml.*` keys that other tools write and no contract mentions, each by its name.

A key is harmless for a reason, harmless with one value, or a violation because a runtime obeys it. One that is not
listed here is a violation too: nobody knows what a runtime makes of it.
"""

from collections.abc import Iterator, Mapping

from conform.contract.finding import Finding
from conform.contract.spec import TokenizerSpec
from conform.core.gguf.read import GGUFFile, GGUFValue

__all__ = ["PREFIX", "check_foreign_keys"]

PREFIX = "tokenizer.ggml."

_HARMLESS: Mapping[str, str] = {
    "cls_token_id": "only encoders like BERT put it before a text",
    "mask_token_id": "only encoders like BERT are asked for it",
    "seperator_token_id": "without add_sep_token nothing puts it into a text",
    "token_type_count": "only encoders like BERT have segments",
    "fim_pre_token_id": "only infilling puts it into a text",
    "fim_suf_token_id": "only infilling puts it into a text",
    "fim_mid_token_id": "only infilling puts it into a text",
    "prefix_token_id": "the older name of fim_pre_token_id",
    "suffix_token_id": "the older name of fim_suf_token_id",
    "middle_token_id": "the older name of fim_mid_token_id",
}
_HARMLESS_WHEN: Mapping[str, tuple[GGUFValue, str]] = {
    "add_sep_token": (False, "a runtime puts a separator behind every text"),
    "normalizer.lowercase": (False, "a runtime writes every text in lower case"),
    "normalizer.strip_accents": (False, "a runtime takes accents away"),
    "precompiled_charsmap": ([], "a runtime rewrites characters by it"),
    "suppress_tokens": ([], "a runtime never generates these tokens"),
}
_STOPS = ("eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
_UNSEEN = "the contract does not mention it, and a runtime may obey it"


def check_foreign_keys(file: GGUFFile, known: frozenset[str], spec: TokenizerSpec) -> Iterator[Finding]:
    """Every key of the tokenizer, besides those that are `known`, by which a runtime departs from the contract."""
    for key, value in file.metadata.items():
        if not key.startswith(PREFIX) or key in known:
            continue
        name = key.removeprefix(PREFIX)
        if name in _HARMLESS or (name == "unknown_token_id" and spec.model == "byte-level"):
            continue  # a byte-level BPE has a piece for every byte, so nothing is unknown
        expected, why = _expected(name, spec)
        if value != expected:
            shown = repr(value)
            found = shown if len(shown) <= 80 else shown[:77] + "..."
            yield Finding(
                "error", key, "no such key" if expected is None else f"{expected!r}, or no such key", found, why
            )


def _expected(name: str, spec: TokenizerSpec) -> tuple[GGUFValue | None, str]:
    """The value with which a key changes nothing, None for none, and why any other does."""
    if name in _STOPS:
        return spec.eos_id, f"a runtime stops at this token too, the contract knows only eos_id = {spec.eos_id}"
    return _HARMLESS_WHEN.get(name, (None, _UNSEEN))
