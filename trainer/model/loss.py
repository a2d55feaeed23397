"""Loss: the cross-entropy of an output layer, computed without ever having all its logits at once.

With a vocabulary of 32,000 the logits of a batch need more memory than the rest of a small model. So they are computed
for a chunk of positions at a time, and while they exist, so are the gradients of the inputs and of the weight, which is
all that the backward pass needs of them. Keeping those is cheaper than computing the logits a second time.

With p = softmax(x Wᵀ) and one-hot targets t: d loss / dx = (p - t) W and d loss / dW = (p - t)ᵀ x.
N positions, H hidden width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

__all__ = ["total_cross_entropy"]


def total_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """The sum of -log softmax(x Wᵀ)[target] over N positions, in nats, as a float64 scalar.

    x (N, H) in the compute dtype, weight (V, H) float32, targets (N,) int64. Only `chunk` positions have logits at a
    time; 0 means all. In bfloat16 each chunk adds one rounding to the weight's gradient.
    """
    if torch.is_grad_enabled():
        total: Tensor = _TotalCrossEntropy.apply(x, weight, targets, chunk)  # type: ignore[no-untyped-call]  # torch types it loosely
        return total
    cast = weight.to(x.dtype)
    return _total([-_pick(_log_softmax(part, cast), at) for part, at in _chunks(x, targets, chunk)])


class _TotalCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        cast = weight.to(x.dtype)
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        losses = []
        for (part, at), to_part in zip(_chunks(x, targets, chunk), torch.split(to_x, chunk or len(x)), strict=True):
            loss, to_logits = _loss_and_gradient(part, cast, at)
            losses.append(loss)
            torch.mm(to_logits, cast, out=to_part)
            to_weight += to_logits.mT @ part
            del to_logits  # before the next chunk has logits
        context.save_for_backward(to_x, to_weight)
        return _total(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_x, to_weight = context.saved_tensors
        return to_x * gradient, to_weight * gradient, None, None


def _chunks(x: Tensor, targets: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = chunk or len(targets)
    return zip(torch.split(x, size), torch.split(targets, size), strict=True)


def _loss_and_gradient(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    # The gradient with respect to the logits: p - t.
    p = _log_softmax(x, weight)
    loss = -_pick(p, targets)
    p.exp_()
    p[torch.arange(len(targets), device=targets.device), targets] -= 1
    return loss, p.to(x.dtype)


def _log_softmax(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight).float().log_softmax(-1)


def _pick(log_softmax: Tensor, targets: Tensor) -> Tensor:
    return log_softmax.gather(1, targets[:, None]).squeeze(1)


def _total(losses: list[Tensor]) -> Tensor:
    return torch.cat(losses).sum(dtype=torch.float64)
