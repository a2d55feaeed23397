"""Localise: where a runtime first departs from the reference: the layer, the vector, and the tensor behind it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from conform.contract.finding import Finding
from conform.core.quantizer import Float32
from conform.core.runtime import RuntimeFault
from conform.parity.evidence import Evidence
from conform.parity.rungs.implementation import agreement

__all__ = ["Departure", "first_departure"]

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
_MOST_VALUES = 1 << 20


@dataclass(frozen=True, slots=True)
class Departure:
    """The first vector that is wrong, the position, its NMSE, and what it newly depends on."""

    layer: int
    name: str
    position: int
    nmse: float
    suspect: str

    def finding(self) -> Finding:
        """The same as a finding."""
        where = f"blk.{self.layer} {self.name}, position {self.position}"
        return Finding(
            "error",
            where,
            f"NMSE of at most {_LIMIT:g}",
            f"{self.nmse:.3g}, the first that departs",
            f"look at {self.suspect}",
        )


def first_departure(evidence: Evidence) -> Departure | None:
    """Watches one more run at the worst position, layer by layer; None when no vector that is told departs."""
    seen, step = evidence.rows[agreement(evidence).worst_row]
    number = step.position - seen.passage.position(0)
    request = replace(seen.passage.request, max_tokens=number + 1, forced=seen.passage.request.forced[:number])
    try:
        _, watched = evidence.subject.runtime.step(request, number, values=_MOST_VALUES)
    except RuntimeFault:
        return None
    return _compare(_reference_values(evidence, seen.ids[: step.position + 1]), watched.values, step.position)


def _reference_values(evidence: Evidence, ids: tuple[int, ...]) -> dict[tuple[int, str], Float32]:
    values: dict[tuple[int, str], Float32] = {}

    def keep(layer: int, name: str, rows: Tensor) -> None:
        values[layer, name] = rows[-1].numpy()

    evidence.decoded.hidden([ids], keep)
    return values


def _compare(
    expected: Mapping[tuple[int, str], Float32], found: Mapping[tuple[int, str], Float32], position: int
) -> Departure | None:
    layers_told = {layer for layer, _ in found}
    for layer, name, suspect in _in_order(expected):
        if layers_told and layer not in layers_told:
            return Departure(
                layer, name, position, float("inf"), "whether this layer is run at all: nothing is told of it"
            )
        ours, theirs = expected[layer, name], found.get((layer, name))
        if theirs is None:
            continue
        nmse = float("inf") if ours.shape != theirs.shape else _nmse(ours, theirs)
        if not nmse <= _LIMIT:
            return Departure(layer, name, position, nmse, _named(layer, suspect))
    return None


def _in_order(expected: Mapping[tuple[int, str], Float32]) -> Iterator[tuple[int, str, str]]:
    for layer in range(1 + max(layer for layer, _ in expected)):
        for stem, suspect in _ORDER:
            for known, name in expected:
                if known == layer and (name == stem or (stem.endswith("_h") and name.startswith(stem))):
                    yield layer, name, suspect


def _nmse(expected: Float32, found: Float32) -> float:
    # Relative to the mean square, not the variance: an attention row over one position has none.
    wide = expected.astype(np.float64)
    return float(np.square(wide - found).mean() / max(np.square(wide).mean(), np.finfo(np.float64).tiny))


def _named(layer: int, suspect: str) -> str:
    words = suspect.replace(",", " ,").split(" ")
    return " ".join(f"blk.{layer}.{word}" if word.endswith(".weight") else word for word in words).replace(" ,", ",")
