"""Check: the tensors that a checkpoint holds against the inventory that its contract implies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.contract.inventory import TensorSpec, inventory
from conform.contract.spec import ModelSpec

__all__ = ["TensorSeen", "check_tensors"]

_DTYPES = ("F32", "F16", "BF16", "F64")
# Hugging Face once stored this table, which follows from rope_base and rope_dim.
_DERIVED = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class TensorSeen:
    """A tensor's header: shape as PyTorch writes it, dtype as safetensors spells it."""

    shape: tuple[int, ...]
    dtype: str


def check_tensors(seen: Mapping[str, TensorSeen], model: ModelSpec) -> list[Finding]:
    """Every missing, unexpected, misshapen or mistyped tensor, in the order of the inventory, then by name."""
    expected = {spec.name: spec for spec in inventory(model)}
    findings = [finding for spec in expected.values() for finding in _check_one(spec, seen.get(spec.name))]
    return findings + [_unexpected(name, seen[name], model) for name in sorted(seen.keys() - expected.keys())]


def _check_one(spec: TensorSpec, seen: TensorSeen | None) -> Iterator[Finding]:
    if seen is None:
        yield Finding("error", spec.name, f"shape {_dims(spec.shape)}", "no such tensor", "the contract needs it")
        return
    if seen.shape != spec.shape:
        transposed = "it is transposed" if seen.shape == spec.shape[::-1] else ""
        yield Finding("error", spec.name, f"shape {_dims(spec.shape)}", f"shape {_dims(seen.shape)}", transposed)
    if seen.dtype not in _DTYPES:
        yield Finding(
            "error", spec.name, f"dtype {', '.join(_DTYPES)}", f"dtype {seen.dtype}", "store it as one of these"
        )


def _unexpected(name: str, seen: TensorSeen, model: ModelSpec) -> Finding:
    found = f"a tensor of shape {_dims(seen.shape)}"
    if name.endswith(_DERIVED):
        return Finding("warning", name, "no such tensor", found, "it follows from rope_base and is left out")
    if name == "lm_head.weight" and model.tied_embeddings:
        return Finding("error", name, "no such tensor", found, "the contract ties the output to the embeddings")
    return Finding("error", name, "no such tensor", found, "the contract does not know it")


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
