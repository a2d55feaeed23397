"""Infer: the contract that a Hugging Face configuration describes and where each field comes from, or why none can."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.huggingface.family import read_families
from conform.contract.huggingface.keys import Ignored, ignored_keys
from conform.contract.huggingface.model import model_facts
from conform.contract.huggingface.settings import Decided, Settings
from conform.contract.mapping import from_mapping, shown, to_mapping
from conform.contract.quantisation import Stored, stored_weights
from conform.contract.spec import Contract, RopeScaling, StoragePolicy, TokenizerSpec

__all__ = ["SENTENCEPIECE_BPE", "STANDARD_STORAGE", "Inference", "Origin", "infer_contract"]

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

_MODEL_TYPE = "model_type"
_WHY = "Inferred from the checkpoint's config.json."


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a field of the contract comes from: a key of config.json, or a default with its source."""

    field: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Inference:
    """A contract, how the weights beside it are stored, the origin of each field, and the keys that decide nothing.

    `family` is the configuration's model_type.
    """

    family: str
    contract: Contract
    stored: Stored
    origins: tuple[Origin, ...]
    ignored: tuple[Ignored, ...]

    @property
    def summary(self) -> str:
        """One line: what was understood of the arithmetic and the tokenizer, and what was ignored."""
        model = self.contract.model
        family = "" if self.family == model.architecture else f"{self.family} as "
        scaling = model.rope_scaling
        facts = (
            f"{family}{model.architecture}, {model.linear} linear layers ({self.stored.weights})",
            f"RoPE base {model.rope_base:g}" + (f" scaled ×{scaling.factor:g} by {scaling.kind}" if scaling else ""),
            f"norm eps {model.norm_eps:g}",
            f"output {'tied' if model.tied_embeddings else 'of its own'}",
            _tokenizer_in_words(self.contract.tokenizer),
            f"ignored {', '.join(ignored.key[:80] for ignored in self.ignored) or 'nothing'}",
        )
        return "; ".join(facts)

    def to_json(self) -> dict[str, object]:
        """All of it, for a JSON report."""
        return dataclasses.asdict(self) | {"digest": self.contract.digest, "summary": self.summary}


def infer_contract(
    config: Mapping[str, Any],
    name: str,
    tokenizer: TokenizerSpec | None = None,
    tokenizer_origins: Mapping[str, str] | None = None,
) -> Inference:
    """The contract that `config.json` describes, with the storage of the shipped contracts.

    `tokenizer` is what the files beside the checkpoint say, with the origin of each of its fields; without it, the
    contract has the recipe of the shipped ones, with the ids that the configuration names.
    Raises ContractError naming each key that conform does not know, that contradicts another one, or that says what no
    contract can express.
    """
    where = f"{name}: config.json"
    families = read_families()
    family = families.families.get(_text(config.get(_MODEL_TYPE)))
    if family is None:
        known = " or ".join(families.families)
        raise ContractError(f"{where}: {_MODEL_TYPE} = {shown(config.get(_MODEL_TYPE))}: expected {known}")
    ignored = ignored_keys(config, family, families, where)
    settings = Settings(config, family, where)
    stored = stored_weights(config, where)
    sections = {
        "model": model_facts(settings, stored),
        "tokenizer": _recipe(settings) if tokenizer is None else _read(tokenizer, tokenizer_origins or {}),
        "storage": _all_from(STANDARD_STORAGE, "the storage of the shipped contracts"),
    }
    origins = [
        Origin(f"{section}.{key}", _plain(fact.value), fact.source)
        for section, facts in sections.items()
        for key, fact in facts.items()
    ]
    values = {section: {key: _plain(fact.value) for key, fact in facts.items()} for section, facts in sections.items()}
    contract = from_mapping(Contract, {"name": name, "why": _WHY, **values}, where)
    return Inference(
        config[_MODEL_TYPE], contract, stored, tuple(origins), (*ignored, *_overruled_ids(config, tokenizer))
    )


def _tokenizer_in_words(tokenizer: TokenizerSpec) -> str:
    kind = f"byte-level tokenizer ({tokenizer.pre})" if tokenizer.pre else "SentencePiece tokenizer"
    around = [word for word, added in (("BOS", tokenizer.add_bos), ("EOS", tokenizer.add_eos)) if added]
    return f"{kind} adding {' and '.join(around) or 'nothing'}"


def _recipe(settings: Settings) -> dict[str, Decided[Any]]:
    """The shipped recipe, with the ids of the configuration."""
    return _all_from(SENTENCEPIECE_BPE, "the recipe of the shipped contracts, as no tokenizer was read") | {
        "bos_id": settings.whole("bos_token_id"),
        "eos_id": _eos(settings),
    }


def _eos(settings: Settings) -> Decided[int]:
    ids = settings.config.get("eos_token_id")
    if isinstance(ids, list) and ids and all(type(number) is int for number in ids):
        return Decided(ids[0], "the first of eos_token_id")
    return settings.whole("eos_token_id")


def _overruled_ids(config: Mapping[str, Any], tokenizer: TokenizerSpec | None) -> Iterator[Ignored]:
    """The ids that the configuration names and the tokenizer contradicts."""
    said = {} if tokenizer is None else {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    for key, decided in said.items():
        value = config.get(key)
        if value is not None and decided not in (value if isinstance(value, list) else [value]):
            yield Ignored(key, value, f"the tokenizer beside the checkpoint says {decided}, and it decides")


def _read(tokenizer: TokenizerSpec, origins: Mapping[str, str]) -> dict[str, Decided[Any]]:
    facts = _all_from(tokenizer, "the tokenizer beside the checkpoint")
    return {key: Decided(fact.value, origins.get(key, fact.source)) for key, fact in facts.items()}


def _all_from(record: TokenizerSpec | StoragePolicy, source: str) -> dict[str, Decided[Any]]:
    return {field.name: Decided(getattr(record, field.name), source) for field in dataclasses.fields(record)}


def _plain(value: object) -> object:
    return to_mapping(value) if isinstance(value, RopeScaling) else value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
