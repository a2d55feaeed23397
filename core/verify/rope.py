"""Verify rope: the factors of the rotary frequencies that a GGUF file holds as a tensor, against the contract."""

from collections.abc import Iterator

import numpy as np

from conform.contract.finding import Finding
from conform.contract.inventory import TensorSpec
from conform.contract.rope import FACTOR_TOLERANCE, frequency_factors
from conform.contract.spec import ModelSpec
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import ggml_type

__all__ = ["check_factors"]


def check_factors(file: GGUFFile, spec: TensorSpec, model: ModelSpec) -> Iterator[Finding]:
    """The first factor that is not the scaling's, computed anew; converters that compute in float32 are near enough."""
    tensor = file.tensors[spec.gguf_name]
    kind = ggml_type(tensor.ggml_type)
    if kind is None or kind.name != "f32":
        stored = kind.name if kind else f"type {tensor.ggml_type}"
        yield Finding("error", tensor.name, "type f32", stored, "runtimes read nothing else")
        return
    if tensor.shape != spec.shape or tensor.problem or tensor.offset + tensor.nbytes > file.size:
        return  # reported already
    assert model.rope_scaling is not None
    found = file.packed(tensor.name).view("<f4").astype(np.float64)
    expected = np.array(frequency_factors(model.rope_base, model.rope_dim, model.rope_scaling))
    wrong = np.flatnonzero(~np.isclose(found, expected, rtol=FACTOR_TOLERANCE, atol=0))
    if wrong.size:
        first, hint = int(wrong[0]), f"{wrong.size} of {found.size} factors are not those of the contract's scaling"
        yield Finding("error", f"{tensor.name}[{first}]", f"{expected[first]:.7g}", f"{found[first]:.7g}", hint)
