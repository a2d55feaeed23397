import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conform.parity.reference.linear import Dense, Ternary, product, quantise_activations


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def by_hand(values, codes, scale):
    """The matrix product of the Go runtime, one number at a time."""
    out = np.zeros((len(values), len(codes)), dtype=np.float32)
    for i, row in enumerate(values):
        largest = max(np.float32(1e-5), np.abs(row).max())
        factor = np.float32(127) / largest
        levels = np.clip(np.rint((row * factor).astype(np.float32)), -128, 127).astype(np.int64)
        for j, weights in enumerate(codes):
            # Codes are stored as 0, 1, 2; the sum of the levels is taken off again.
            dot = int(((weights.astype(np.int64) + 1) * levels).sum() - levels.sum())
            out[i, j] = np.float32(dot) * (np.float32(scale) / factor)
    return out


def test_ternary_is_the_integer_product_of_the_go_runtime():
    codes = np.random.default_rng(1).integers(-1, 2, (24, 128)).astype(np.float32)
    values = random(5, 128)
    found = Ternary(torch.from_numpy(codes), 0.037).apply(values, "double").numpy()
    np.testing.assert_array_equal(found, by_hand(values.numpy(), codes, 0.037))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1e30])
def test_activations_of_any_size_stay_int8(size):
    levels, _ = quantise_activations(random(3, 64) * size)
    assert levels.abs().max() <= 128
    assert torch.equal(levels, levels.round())


def test_halves_are_rounded_to_even():
    values = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantise_activations(values)[0].tolist() == [[127, 0, 2, 2, 0, -2]]


@given(st.integers(1, 40), st.integers(1, 300))
def test_double_is_the_rounded_exact_product(rows, width):
    values, weight = random(3, width, seed=1), random(rows, width, seed=2)
    exact = values.double() @ weight.double().T
    assert torch.equal(product(values, weight, "double"), exact.float())


def test_blocks_of_rows_do_not_change_the_product():
    values, weight = random(2, 8), random(9000, 8)
    expected = torch.cat([product(values, weight[:5000], "double"), product(values, weight[5000:], "double")], dim=1)
    assert torch.equal(product(values, weight, "double"), expected)


def test_single_differs_from_double_by_rounding_only():
    values, weight = random(4, 512), random(64, 512)
    single, double = (Dense(weight).apply(values, kind) for kind in ("single", "double"))
    assert 0 < (single - double).abs().max() < 1e-3


def test_a_perturbation_flips_a_few_activations_by_one_code_at_most():
    values = random(16, 4096)
    calm, _ = quantise_activations(values)
    perturbed, _ = quantise_activations(values, 2.0**-6)
    flipped = (calm != perturbed).float().mean()
    assert 0 < flipped < 0.1
    assert (calm - perturbed).abs().max() == 1
