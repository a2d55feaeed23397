"""Linear: a matrix product, in the arithmetic that its weights call for."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Arithmetic", "Dense", "Linear", "Ternary", "product", "quantise_activations"]

Arithmetic: TypeAlias = Literal["double", "single", "perturbed"]
"""double: sums in float64, rounded to float32 after each product. single: everything in float32.
perturbed: as double, but activations are moved a little before they are rounded to int8, so that some round otherwise.
"""

# In steps of the int8 codes. Two correct runtimes that add in a different order may hold activations that differ in
# their last bits, and a few of those lie so near a half that they round to different codes. This perturbation makes
# about one activation in eight thousand do so: more than any order of addition does, and still few.
_PERTURBATION = 2.0**-13

# Rows of a weight matrix that are widened to float64 at a time.
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Dense:
    """y = W x with W (out, in) float32."""

    weight: Tensor

    def apply(self, values: Tensor, arithmetic: Arithmetic) -> Tensor:
        """(positions, in) → (positions, out) float32."""
        return product(values, self.weight, arithmetic)


@dataclass(frozen=True, slots=True)
class Ternary:
    """y = scale · T x with T (out, in) of -1, 0, 1 and x quantised to int8 per position (BitNet b1.58)."""

    codes: Tensor
    scale: float

    def apply(self, values: Tensor, arithmetic: Arithmetic) -> Tensor:
        """(positions, in) → (positions, out) float32; the integer sums are exact in either arithmetic."""
        quantised, inverse = quantise_activations(values, _PERTURBATION if arithmetic == "perturbed" else 0.0)
        # Sums of whole numbers below 2^24 are exact in float32, in any order.
        sums = quantised @ self.codes.T
        if arithmetic != "single":
            return sums * (torch.tensor(self.scale, dtype=torch.float32) / inverse)
        return sums / inverse * self.scale


Linear: TypeAlias = Dense | Ternary


def quantise_activations(values: Tensor, perturbation: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows (positions, width) → whole numbers in [-128, 127] as float32, and the factor (positions, 1) they carry.

    Before rounding, `perturbation` is added to the values of even index and subtracted from the others.
    """
    largest = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    factor = torch.tensor(127.0, dtype=torch.float32) / largest
    scaled = values * factor
    if perturbation:
        scaled[..., ::2] += perturbation
        scaled[..., 1::2] -= perturbation
    return scaled.round().clamp(-128, 127), factor


def product(values: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    """(positions, in) times (out, in) transposed, float32."""
    if arithmetic == "single":
        return values @ weight.T
    wide = values.double()
    blocks = [(wide @ weight[start : start + _ROWS].double().T).float() for start in range(0, len(weight), _ROWS)]
    return torch.cat(blocks, dim=-1)
