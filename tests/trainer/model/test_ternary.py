import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conform.core.i2_s import ternary as export
from conform.trainer.model.ternary import (
    BitLinear,
    StoredBitLinear,
    absmean_scale,
    activation_codes,
    activation_scale,
    effective_weight,
    weight_codes,
)

MATRICES = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 40)), elements=st.floats(-4, 4, width=32))


def layer(inputs=48, outputs=16, seed=0):
    bit = BitLinear(inputs, outputs)
    torch.nn.init.normal_(bit.weight, 0, 0.05, generator=torch.Generator().manual_seed(seed))
    return bit


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(MATRICES)
def test_training_and_export_find_the_same_codes(values):
    codes, scale = export.ternarise(values)
    weight = torch.from_numpy(values.copy())
    assert absmean_scale(weight).item() == scale
    assert np.array_equal(weight_codes(weight, absmean_scale(weight)).numpy(), codes)
    assert np.array_equal(effective_weight(weight).numpy(), export.effective(values))


def test_a_matrix_of_zeros_has_codes_of_zero():
    assert not effective_weight(torch.zeros(4, 8)).any()
    assert absmean_scale(torch.zeros(4, 8)).item() == pytest.approx(1e-5)


def test_the_product_is_that_of_whole_numbers():
    bit, x = layer(), tokens(3, 5, 48)
    codes = weight_codes(bit.weight, absmean_scale(bit.weight)).to(torch.int64)
    a = activation_scale(x)
    whole = activation_codes(x, a).to(torch.int64) @ codes.T
    assert torch.equal(bit(x), whole.float() * (absmean_scale(bit.weight) / a))


def test_stored_ternary_weights_are_used_as_they_are():
    stored, x = StoredBitLinear(48, 16), tokens(4, 48)
    codes = torch.randint(-1, 2, (16, 48), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        stored.weight.copy_(codes * 0.375)
    a = activation_scale(x)
    whole = activation_codes(x, a).to(torch.int64) @ codes.T
    assert torch.equal(stored(x), whole.float() * (torch.tensor(0.375) / a))


def test_bfloat16_rounds_the_sum_and_the_result_only():
    bit, x = layer(), tokens(4, 48).bfloat16()
    torch.testing.assert_close(bit(x).float(), bit(x.float()), rtol=2**-7, atol=0)


def test_the_largest_activation_of_a_token_is_127():
    x = tokens(6, 48)
    assert torch.equal(activation_codes(x, activation_scale(x)).abs().amax(-1), torch.full((6,), 127.0))


def test_a_token_of_zeros_stays_zero():
    assert not layer()(torch.zeros(2, 48)).any()


def test_gradients_pass_straight_through_both_roundings():
    bit, x = layer(), tokens(7, 48).requires_grad_()
    gradient = tokens(7, 16, seed=2)
    bit(x).backward(gradient)
    a = activation_scale(x)
    torch.testing.assert_close(x.grad, gradient @ effective_weight(bit.weight))
    torch.testing.assert_close(bit.weight.grad, gradient.T @ (activation_codes(x, a) / a))


def test_it_learns():
    bit, x = layer(64, 8), tokens(256, 64)
    target = x @ torch.sign(tokens(64, 8, seed=3)) * 0.1
    optimizer = torch.optim.Adam(bit.parameters(), 3e-3)
    losses = []
    for _ in range(200):
        loss = (bit(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
