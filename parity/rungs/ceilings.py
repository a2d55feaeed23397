"""Ceilings: what each tensor type may cost at most, in relative error of a tensor and in nats per token.

The published mean KL divergences of an 8B model against f16 on wikitext-2 (llama-perplexity: q8_0 0.0014, q6_K 0.006,
q4_K_M 0.03, iq4_XS 0.04, iq3_M 0.10, iq3_XXS 0.18, iq2_M 0.33) times about three to six, because small models suffer
more; below two bits nothing published is reliable, and the ceiling only catches what is broken. Relative errors are
those of Gaussian weights at the type's bits with the same allowance. docs/reference/parity.md repeats this table.
"""

from dataclasses import dataclass

from conform.contract.spec import Contract
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import I2_S, ggml_type

__all__ = ["CEILINGS", "Ceiling", "ceiling_of_type", "kl_ceiling"]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """`relative_error` of one tensor (root mean square over that of the weights), 0 meaning bit for bit; `kl` mean."""

    relative_error: float
    kl: float


_UNKNOWN = Ceiling(0.7, 5.0)
# A ternary model's linears expect int8 activations; every type but i2_s feeds them floats.
_FLOAT_ACTIVATIONS = 0.05

CEILINGS: dict[str, Ceiling] = {
    "f32": Ceiling(0.0, 1e-4),
    "f16": Ceiling(0.0, 2e-3),
    "bf16": Ceiling(0.0, 5e-3),
    "q8_0": Ceiling(0.01, 1e-2),
    "q6_k": Ceiling(0.04, 0.03),
    "q5_0": Ceiling(0.06, 0.06),
    "q5_1": Ceiling(0.06, 0.06),
    "q5_k": Ceiling(0.06, 0.06),
    "q4_0": Ceiling(0.13, 0.3),
    "q4_1": Ceiling(0.13, 0.3),
    "q4_k": Ceiling(0.12, 0.2),
    "iq4_nl": Ceiling(0.12, 0.25),
    "iq4_xs": Ceiling(0.12, 0.25),
    "q3_k": Ceiling(0.25, 0.6),
    "iq3_s": Ceiling(0.23, 0.6),
    "iq3_xxs": Ceiling(0.27, 1.0),
    "q2_k": Ceiling(0.45, 1.5),
    "iq2_s": Ceiling(0.4, 1.5),
    "iq2_xs": Ceiling(0.45, 2.0),
    "iq2_xxs": Ceiling(0.5, 2.5),
    "iq1_m": Ceiling(0.62, 4.0),
    "iq1_s": Ceiling(0.66, 4.0),
    "tq1_0": Ceiling(0.9, 0.01),
    "tq2_0": Ceiling(0.9, 0.01),
    "i2_s": Ceiling(0.7, 0.01),
}


def ceiling_of_type(type_id: int) -> Ceiling:
    """The ceiling of that tensor type; a generous one for a type that only a plugin knows."""
    kind = ggml_type(type_id)
    return CEILINGS.get(kind.name, _UNKNOWN) if kind else _UNKNOWN


def kl_ceiling(file: GGUFFile, contract: Contract) -> tuple[float, str]:
    """The mean KL divergence that passes for that file, and the reason for it: its costliest type decides."""
    types = {info.ggml_type for info in file.tensors.values()}
    worst = max(types, key=lambda type_id: ceiling_of_type(type_id).kl)
    kind = ggml_type(worst)
    ceiling, reason = ceiling_of_type(worst).kl, f"ceiling of {kind.name if kind else f'type {worst}'}"
    if contract.model.is_ternary and I2_S not in types:
        return ceiling + _FLOAT_ACTIVATIONS, f"{reason}, and float activations of a ternary model"
    return ceiling, reason
