import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.utils._python_dispatch import TorchDispatchMode

from conform.trainer.model.loss import total_cross_entropy

POSITIONS, WIDTH, VOCABULARY = 23, 16, 101
GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(POSITIONS, WIDTH, generator=GENERATOR)
WEIGHT = torch.randn(VOCABULARY, WIDTH, generator=GENERATOR)
TARGETS = torch.randint(0, VOCABULARY, (POSITIONS,), generator=GENERATOR)
CHUNKS = [0, 1, 7, POSITIONS, 1000]


def with_gradients(loss, dtype, share=1.0):
    x, weight = X.to(dtype, copy=True).requires_grad_(), WEIGHT.clone().requires_grad_()
    total = loss(x, weight)
    (total / share).backward()
    return total.detach(), x.grad, weight.grad


def by_autograd(x, weight):
    return F.cross_entropy(F.linear(x, weight.to(x.dtype)).float(), TARGETS, reduction="none").double().sum()


def ours(chunk):
    return lambda x, weight: total_cross_entropy(x, weight, TARGETS, chunk)


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradients_are_those_of_cross_entropy(chunk):
    for found, expected in zip(
        with_gradients(ours(chunk), torch.float32), with_gradients(by_autograd, torch.float32), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("share", [1, 64])
def test_one_chunk_in_bfloat16_is_cross_entropy_bit_for_bit(share):
    for found, expected in zip(
        with_gradients(ours(0), torch.bfloat16, share),
        with_gradients(by_autograd, torch.bfloat16, share),
        strict=True,
    ):
        assert found.equal(expected)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks_in_bfloat16_stay_near(chunk):
    total, to_x, to_weight = with_gradients(ours(chunk), torch.bfloat16)
    expected = with_gradients(by_autograd, torch.bfloat16)
    torch.testing.assert_close(total, expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(to_x, expected[1])
    assert (to_weight - expected[2]).norm() < 0.01 * expected[2].norm()


def test_gradients_follow_what_is_done_with_the_total():
    once, thrice = with_gradients(ours(7), torch.float32), with_gradients(ours(7), torch.float32, share=1 / 3)
    torch.testing.assert_close(thrice[1], 3 * once[1])
    torch.testing.assert_close(thrice[2], 3 * once[2])


def test_without_gradients_the_value_is_the_same():
    with torch.no_grad():
        alone = total_cross_entropy(X, WEIGHT, TARGETS, 7)
    assert alone.equal(with_gradients(ours(7), torch.float32)[0])
    assert alone.dtype == torch.float64


@pytest.mark.parametrize("gradients", [True, False])
def test_no_more_than_a_chunk_of_logits_ever_exists(gradients):
    with torch.set_grad_enabled(gradients), LargestTensor() as largest:
        total = total_cross_entropy(X.clone().requires_grad_(), WEIGHT.clone().requires_grad_(), TARGETS, 5)
        if gradients:
            total.backward()
    assert largest.elements == max(5 * VOCABULARY, WEIGHT.numel())
    with LargestTensor() as largest:
        total_cross_entropy(X, WEIGHT, TARGETS, 0)
    assert largest.elements == POSITIONS * VOCABULARY, "the test sees logits"


def test_a_confident_wrong_model_has_a_finite_loss():
    total, to_x, to_weight = with_gradients(
        lambda x, weight: total_cross_entropy(x * 1e4, weight, TARGETS, 7), torch.float32
    )
    assert all(tensor.isfinite().all() for tensor in (total, to_x, to_weight))
    assert total > 1e5
