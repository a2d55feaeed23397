"""Contract: what a model *is*, frozen, with a canonical form and a digest."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from conform.contract.errors import ContractError
from conform.contract.mapping import Rule, from_mapping, to_mapping

__all__ = [
    "Architecture",
    "Contract",
    "LinearKind",
    "ModelSpec",
    "RopeScaling",
    "StorageClass",
    "StoragePolicy",
    "TokenizerSpec",
    "TrainingDtype",
]

Architecture = Literal["llama", "bitnet-b1.58"]
LinearKind = Literal["dense", "ternary", "ternary-stored"]
TrainingDtype = Literal["bf16", "f16", "f32"]
ScalingKind = Literal["linear", "llama3", "yarn"]
StorageClass = Literal["norm", "embedding", "output", "linear"]

# No model has larger dimensions; a hostile file might, to exhaust the memory.
_LARGEST = 2**31 - 1
# The inventory has about ten entries for each layer, which a hostile file must not multiply without limit.
_MOST_LAYERS = 10_000
# There is a rotary frequency for every two elements of a head; no model comes near.
_LARGEST_HEAD = 1 << 16


# The parameters of each kind of RoPE scaling besides its factor.
_SCALING_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "llama3": ("original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("original_context", "beta_fast", "beta_slow", "attention_factor"),
}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary angles are stretched for a longer context; the parameters of its kind are set, the others None.

    `original_context` counts positions, the context of the training before. `low_freq_factor` and `high_freq_factor`
    (Llama 3), `beta_fast` and `beta_slow` (YaRN, arXiv:2309.00071) bound the frequencies between the two regimes;
    `attention_factor` multiplies sine and cosine.
    """

    kind: ScalingKind
    factor: float
    original_context: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        for problem in _scaling_problems(self):
            raise ContractError(f"model.rope_scaling.{problem}")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The dimensions and arithmetic of a Llama-style decoder; what has no default is required.

    A field that has its default does not count in the digest, so that contracts older than the field keep theirs.
    `linear = "ternary"` means that the linear layers compute with absmean-ternarised weights and per-token
    absmax int8 activations (BitNet b1.58, arXiv:2402.17764); the checkpoint holds their latent float weights.
    `"ternary-stored"` computes in the same way, but the stored weights are ternary already and are used as they are.
    `architecture = "bitnet-b1.58"` uses squared ReLU in place of SiLU.
    """

    architecture: Architecture
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rope_base: float
    rope_dim: int
    norm_eps: float
    tied_embeddings: bool
    sub_norms: bool
    linear: LinearKind
    dtype: TrainingDtype
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for problem in _model_problems(self):
            raise ContractError(f"model.{problem}")

    @property
    def is_ternary(self) -> bool:
        """True when the linear layers compute with ternary weights and int8 activations."""
        return self.linear != "dense"

    @property
    def q_width(self) -> int:
        """Width of the concatenated query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the concatenated key (or value) heads."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """The exact number of trainable parameters."""
        attention = 2 * self.hidden * self.q_width + 2 * self.hidden * self.kv_width
        sub_norms = self.q_width + self.ffn if self.sub_norms else 0
        block = attention + 3 * self.hidden * self.ffn + 2 * self.hidden + sub_norms
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * block + self.hidden + embeddings


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """How text becomes ids; `sha256` pins one tokenizer file, "" leaves it open.

    `model = "bpe"` is SentencePiece. `"byte-level"` is a byte-level BPE with merges, for which `pre` names the
    pre-tokenizer as llama.cpp does; of the fields before, only the ids and `add_bos` mean something to it.
    """

    model: Literal["bpe", "byte-level"]
    byte_fallback: bool
    normalization: Literal["identity"]
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    add_bos: bool
    sha256: str
    add_eos: bool = False
    pre: str = ""

    def __post_init__(self) -> None:
        if (self.model == "byte-level") != bool(self.pre):
            expected = "the name of a pre-tokenizer" if self.model == "byte-level" else "no such key"
            raise ContractError(f'tokenizer.pre = "{self.pre}": expected {expected} for model = "{self.model}"')


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """How each class of tensor is stored in a GGUF file: a quantizer's name, or "quant" for the one asked for."""

    norm: str
    embedding: str
    output: str
    linear: str

    def of(self, storage_class: StorageClass) -> str:
        """The policy for one class of tensor."""
        return str(getattr(self, storage_class))


@dataclass(frozen=True, slots=True)
class Contract:
    """A named, frozen contract. Its digest covers everything but the name and the reasons given for it."""

    name: Annotated[str, Rule("printable characters only", str.isprintable)]
    why: str
    model: ModelSpec
    tokenizer: TokenizerSpec
    storage: StoragePolicy

    def canonical(self) -> str:
        """The canonical form: JSON with sorted keys, no white space, floats as hexadecimal literals."""
        sections = {section: to_mapping(getattr(self, section)) for section in ("model", "tokenizer", "storage")}
        return json.dumps(_with_hex_floats(sections), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_canonical(cls, text: str, name: str, where: str) -> "Contract":
        """The contract whose `canonical` is this text, under that name; `where` names the text in errors.

        Raises InputError when it is not the canonical form of a contract, to the byte.
        """
        try:
            sections = _without_hex_floats(json.loads(text))
        except (ValueError, OverflowError, RecursionError) as error:
            raise ContractError(f"{where}: not the canonical form of a contract: {str(error)[:80]}") from error
        contract = from_mapping(cls, {**sections, "name": name, "why": ""}, where)
        if contract.canonical() != text:
            raise ContractError(f"{where}: not in canonical form")
        return contract

    @property
    def digest(self) -> str:
        """sha256 of the canonical form, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _with_hex_floats(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_hex_floats(item) for key, item in value.items()}
    return value.hex() if isinstance(value, float) else value


def _without_hex_floats(sections: object) -> dict[str, Any]:
    """The inverse, as far as the text goes along with it: what else is wrong is left to be reported by key."""
    if not isinstance(sections, dict):
        raise ValueError(f"found {type(sections).__name__}, expected a table")
    model = sections.get("model")
    if not isinstance(model, dict):
        return sections
    read = _read_floats(model, ModelSpec)
    if isinstance(scaling := model.get("rope_scaling"), dict):
        read["rope_scaling"] = _read_floats(scaling, RopeScaling)
    return {**sections, "model": read}


def _read_floats(values: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    floats = [field.name for field in dataclasses.fields(kind) if field.type in (float, float | None)]
    read = {name: float.fromhex(values[name]) for name in floats if isinstance(values.get(name), str)}
    return {**values, **read}


def _scaling_problems(scaling: RopeScaling) -> Iterator[str]:
    if scaling.kind not in _SCALING_PARAMETERS:
        yield f'kind = "{scaling.kind}": expected one of {", ".join(_SCALING_PARAMETERS)}'
        return
    for field in dataclasses.fields(RopeScaling)[1:]:
        value, wanted = getattr(scaling, field.name), field.name in ("factor", *_SCALING_PARAMETERS[scaling.kind])
        if wanted and value is None:
            yield f'{field.name} is missing, which kind = "{scaling.kind}" needs'
        elif not wanted and value is not None:
            yield f'{field.name} = {value}: expected no such key for kind = "{scaling.kind}"'
        elif value is not None and not 0 < value <= _LARGEST:
            yield f"{field.name} = {value}: expected a number above 0 and at most {_LARGEST}"
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        below, above = getattr(scaling, low), getattr(scaling, high)
        if below is not None and above is not None and not below < above:
            yield f"{low} = {below}: expected a number below {high} = {above}"


def _model_problems(model: ModelSpec) -> list[str]:
    problems = [
        f"{name} = {value}: expected a whole number from 1 to {_LARGEST}"
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context", "rope_dim")
        if not 1 <= (value := getattr(model, name)) <= _LARGEST
    ]
    problems += [
        f'{name} = "{value}": expected one of {", ".join(get_args(kind))}'
        for name, kind in (("architecture", Architecture), ("linear", LinearKind), ("dtype", TrainingDtype))
        if (value := getattr(model, name)) not in get_args(kind)
    ]
    for name, most in (("layers", _MOST_LAYERS), ("head_dim", _LARGEST_HEAD)):
        if not problems and (count := getattr(model, name)) > most:
            problems.append(f"{name} = {count}: expected at most {most}")
    return problems or _contradictions(model)


def _contradictions(model: ModelSpec) -> list[str]:
    problems = []
    if model.heads % model.kv_heads:
        problems.append(f"kv_heads = {model.kv_heads}: expected a divisor of heads = {model.heads}")
    if model.rope_dim % 2 or model.rope_dim > model.head_dim:
        problems.append(f"rope_dim = {model.rope_dim}: expected an even number up to head_dim = {model.head_dim}")
    if not 0 < model.norm_eps < 1:
        problems.append(f"norm_eps = {model.norm_eps}: expected a number between 0 and 1")
    if not 1 < model.rope_base < float("inf"):
        problems.append(f"rope_base = {model.rope_base}: expected a finite number above 1")
    if model.architecture == "bitnet-b1.58" and not model.tied_embeddings:
        problems.append("tied_embeddings = false: architecture bitnet-b1.58 always ties the output to token_embd")
    return problems
