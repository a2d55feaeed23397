"""Ternary: linear layers that train with the arithmetic that i2_s runs (BitNet b1.58, arXiv:2402.17764).

The parameter is the latent float weight W. In the forward pass it is ternarised by its mean magnitude, the input x is
quantised to int8 by its largest magnitude per token, and the product is that of the *codes*, scaled afterwards:

    s = max(mean|W|, 1e-5)    C = clip(round(W / s), -1, 1)
    a = 127 / max(max|x|, 1e-5)    Q = clip(round(x * a), -128, 127)
    y = (Q Cᵀ) * s / a

In float32 this is what an integer runtime computes: every partial sum is a whole number below 2**24, and so exact.
Both roundings are passed straight through in the backward pass: dy/dx = sC, dy/dW = Q / a.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

__all__ = [
    "BitLinear",
    "StoredBitLinear",
    "absmean_scale",
    "activation_codes",
    "activation_scale",
    "effective_weight",
    "weight_codes",
]

# Stands in for the magnitude of a tensor of zeros, or of a token of zeros.
_SMALLEST = 1e-5


class BitLinear(nn.Linear):
    """A linear layer without bias whose weights are -1, 0 or +1 times one scale and whose inputs are int8."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) → (..., outputs), in the dtype of x."""
        result: Tensor = _TernaryProduct.apply(x, self.weight)  # type: ignore[no-untyped-call]  # torch types it loosely
        return result


class StoredBitLinear(nn.Linear):
    """The same product with weights that are -c, 0 and c already, and are not quantised again; it cannot be trained."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) → (..., outputs), in the dtype of x."""
        scale, a = self.weight.detach().abs().amax(), activation_scale(x)
        codes, q = self.weight.detach().sign().to(x.dtype), activation_codes(x, a).to(x.dtype)
        return (F.linear(q, codes) * (scale / a)).to(x.dtype)


def absmean_scale(weight: Tensor) -> Tensor:
    """The scale of a weight matrix: max(mean|w|, 1e-5), the mean taken in float64 and rounded to float32; scalar."""
    return weight.detach().abs().mean(dtype=torch.float64).float().clamp(min=_SMALLEST)


def weight_codes(weight: Tensor, scale: Tensor) -> Tensor:
    """clip(round(w / scale), -1, 1), halves to even; float32 of the weight's shape."""
    return (weight.detach().float() / scale).round_().clamp_(-1, 1)


def effective_weight(weight: Tensor) -> Tensor:
    """The float32 weight that the layer computes with: codes times scale."""
    scale = absmean_scale(weight.float())
    return weight_codes(weight, scale) * scale


def activation_scale(x: Tensor) -> Tensor:
    """127 / max(max|x|, 1e-5) of each token; (..., 1) float32 for x (..., width)."""
    return 127 / x.detach().abs().amax(dim=-1, keepdim=True).float().clamp(min=_SMALLEST)


def activation_codes(x: Tensor, scale: Tensor) -> Tensor:
    """clip(round(x * scale), -128, 127), halves to even; float32 of the shape of x."""
    return (x.detach().float() * scale).round_().clamp_(-128, 127)


class _TernaryProduct(torch.autograd.Function):
    # One function for the whole layer: a cancels in the gradient of x and s in that of W, and no scaled copy of the
    # codes is kept.

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale, a = absmean_scale(weight), activation_scale(x)
        # Whole numbers up to 128 are exact in bfloat16 too.
        codes, q = weight_codes(weight, scale).to(x.dtype), activation_codes(x, a).to(x.dtype)
        context.save_for_backward(q, codes, scale, a)
        return (F.linear(q, codes) * (scale / a)).to(x.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        q, codes, scale, a = context.saved_tensors
        gradient = gradients[0]
        to_x = (gradient @ codes).mul_(scale)
        to_weight = (gradient / a).to(q.dtype).flatten(0, -2).mT @ q.flatten(0, -2)
        return to_x, to_weight.float()
