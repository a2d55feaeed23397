"""Inferred tokenizer: what the files beside a stranger's checkpoint say of it, as a contract, and which says what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conform.contract.spec import TokenizerSpec
from conform.core.errors import CheckpointError
from conform.core.tokenizer.completed import resolved
from conform.core.tokenizer.settings import TokenizerSettings
from conform.core.tokenizer.tokenizer import find_tokenizer, read_model
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["InferredTokenizer", "infer_tokenizer"]

_ASSUMED_BOS = "no file says it; llama.cpp and transformers before 5 put BOS before a text, transformers 5 does not"
_ASSUMED_EOS = "no file says it; neither llama.cpp nor transformers puts EOS behind a text"


@dataclass(frozen=True, slots=True)
class InferredTokenizer:
    """A contract's tokenizer, and the origin of each of its fields; None where no tokenizer stands there."""

    spec: TokenizerSpec | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def infer_tokenizer(folder: Path, rows: object = None) -> InferredTokenizer:
    """The tokenizer in that folder; `rows` is what config.json says of the embedding's height.

    Raises InputError naming the file that is malformed, or that demands what no contract can express.
    """
    path = find_tokenizer(folder)
    if path is None:
        return InferredTokenizer()
    model, settings = read_model(path)
    _refuse_normalization(model, path)
    whole = resolved(model, settings, rows if isinstance(rows, int) else len(model.pieces))
    _require_named_pieces(whole, settings, folder)
    spec = _spec(whole)
    if spec.add_bos and spec.bos_id < 0:
        raise CheckpointError(
            f"{path}: it has no BOS, but {settings.origins.get('add_bos', 'its post_processor')} says that one stands "
            "before every text; name it as bos_token in tokenizer_config.json"
        )
    return InferredTokenizer(spec, _origins(whole, settings, path.name))


def _spec(whole: Vocabulary) -> TokenizerSpec:
    byte_level = whole.model == "byte-level"
    return TokenizerSpec(
        model="byte-level" if byte_level else "bpe",
        byte_fallback=whole.byte_fallback,
        normalization="identity",
        add_dummy_prefix=whole.add_dummy_prefix,
        remove_extra_whitespaces=whole.remove_extra_whitespaces,
        unk_id=whole.unk_id,
        bos_id=whole.bos_id,
        eos_id=whole.eos_id,
        pad_id=whole.pad_id,
        add_bos=whole.bos_id >= 0 if whole.add_bos is None else whole.add_bos,
        sha256="",
        add_eos=bool(whole.add_eos),
        pre=whole.pre,
    )


def _origins(whole: Vocabulary, settings: TokenizerSettings, name: str) -> dict[str, str]:
    fields = ("model", "byte_fallback", "normalization", "remove_extra_whitespaces", "pre")
    origins = dict.fromkeys((*fields, "add_bos", "add_eos"), name)
    for role in ("unk", "bos", "eos", "pad"):
        text = getattr(settings, role)
        origins[f"{role}_id"] = name if text is None else f"{role}_token = {text[:40]!r} in {settings.origins[role]}"
    origins["add_dummy_prefix"] = settings.origins.get("add_prefix_space", name)
    for fact, assumed in (("add_bos", _ASSUMED_BOS), ("add_eos", _ASSUMED_EOS)):
        if getattr(whole, fact) is None:
            origins[fact] = assumed
        elif fact in settings.origins:
            origin = settings.origins[fact]
            origins[fact] = f"{'post_processor' if origin == 'tokenizer.json' else f'{fact}_token'} in {origin}"
    return origins | {"sha256": "left open"}


def _refuse_normalization(model: Vocabulary, path: Path) -> None:
    if model.normalization != "identity" or model.rewrites_characters:
        raise CheckpointError(
            f"{path}: normalises text by {model.normalization[:40] or 'a table of its own'}; a contract can express "
            "identity only, because no runtime that merges by score rewrites text"
        )


def _require_named_pieces(whole: Vocabulary, settings: TokenizerSettings, folder: Path) -> None:
    """Pass when BOS, EOS and unk, where the settings name them, are pieces; padding needs none."""
    for role in ("bos", "eos", "unk"):
        text = getattr(settings, role)
        if text is not None and getattr(whole, f"{role}_id") < 0:
            raise CheckpointError(
                f"{folder / settings.origins[role]}: {role}_token = {text[:80]!r} has no piece with an embedding row; "
                "name one that has"
            )
