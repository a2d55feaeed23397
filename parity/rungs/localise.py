"""Localise: where a runtime first diverges from the reference: the layer, the vector, and the tensor behind it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from conform.contract.finding import Finding
from conform.core.quantizer import Float32

__all__ = ["DivergingVector", "Vectors", "first_diverging_vector"]

Vectors: TypeAlias = Mapping[tuple[int, str], Float32]
"""The intermediate vectors of one position, by (layer, name)."""

# The vectors of a layer in the order in which they are computed, and what each newly depends on.
_ORDER = (
    ("attn_norm", "attn_norm.weight"),
    ("Qcur", "attn_q.weight"),
    ("Kcur", "attn_k.weight"),
    ("Vcur", "attn_v.weight"),
    ("attn_softmax_h", "the rotary embedding, the scores or the map from heads to kv heads"),
    ("attn_sub_norm", "the weighted sum of values, or attn_sub_norm.weight"),
    ("attn_o_out", "attn_output.weight"),
    ("x_post_attn", "the residual after attention"),
    ("ffn_act", "ffn_norm.weight, ffn_gate.weight, ffn_up.weight or the activation"),
    ("ffn_sub_norm", "ffn_sub_norm.weight"),
    ("x_post_ffn", "ffn_down.weight or the residual after it"),
)
# Far above rounding, far below any fault; the vectors of a layer have no measured noise of their own.
_LIMIT = 1e-5


@dataclass(frozen=True, slots=True)
class DivergingVector:
    """The first vector that is wrong, the position, its NMSE, and what it newly depends on."""

    layer: int
    name: str
    position: int
    nmse: float
    suspect: str

    def finding(self) -> Finding:
        """The same as a finding."""
        where = f"blk.{self.layer} {self.name}, position {self.position}"
        found = f"{self.nmse:.3g}, the first that diverges"
        return Finding("error", where, f"NMSE of at most {_LIMIT:g}", found, f"look at {self.suspect}")


def first_diverging_vector(expected: Vectors, found: Vectors, position: int) -> DivergingVector | None:
    """Compares in the order of computation; None when no vector that the runtime reports diverges."""
    reported = {layer for layer, _ in found}
    for layer, name, suspect in _in_order(expected):
        if reported and layer not in reported:
            missing = "whether this layer is run at all: nothing of it is reported"
            return DivergingVector(layer, name, position, float("inf"), missing)
        ours, theirs = expected[layer, name], found.get((layer, name))
        if theirs is None:
            continue
        nmse = float("inf") if ours.shape != theirs.shape else _nmse(ours, theirs)
        if not nmse <= _LIMIT:
            return DivergingVector(layer, name, position, nmse, _named(layer, suspect))
    return None


def _in_order(expected: Vectors) -> Iterator[tuple[int, str, str]]:
    for layer in range(1 + max(layer for layer, _ in expected)):
        for stem, suspect in _ORDER:
            for known, name in expected:
                # attn_softmax_h is followed by the number of the head.
                if known == layer and (name == stem or (stem.endswith("_h") and name.startswith(stem))):
                    yield layer, name, suspect


def _nmse(expected: Float32, found: Float32) -> float:
    # Relative to the mean square, not the variance: an attention row over one position has none.
    wide = expected.astype(np.float64)
    return float(np.square(wide - found).mean() / max(np.square(wide).mean(), np.finfo(np.float64).tiny))


def _named(layer: int, suspect: str) -> str:
    words = suspect.replace(",", " ,").split(" ")
    return " ".join(f"blk.{layer}.{word}" if word.endswith(".weight") else word for word in words).replace(" ,", ",")
