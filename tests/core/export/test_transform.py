import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import PlanError
from conform.core.export.transform import permute_qk, unpermute_qk


def rows(count, cols=1):
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], cols, axis=1)


def test_halves_of_each_head_are_interleaved():
    moved = permute_qk(rows(16), heads=2)[:, 0]
    assert moved.tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_rows_beyond_the_rotary_part_stay():
    moved = permute_qk(rows(16), heads=2, rope_dim=4)[:, 0]
    assert moved.tolist() == [0, 2, 1, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12, 13, 14, 15]


def test_rotating_neighbours_after_equals_rotating_halves_before():
    rng = np.random.default_rng(0)
    heads, dim, cols = 3, 8, 5
    weight = rng.standard_normal((heads * dim, cols)).astype(np.float32)
    x = rng.standard_normal(cols).astype(np.float32)
    angle = np.tile(0.7 / np.arange(1, dim // 2 + 1), heads)
    halves = (weight @ x).reshape(heads, 2, dim // 2)
    a, b = halves[:, 0].ravel(), halves[:, 1].ravel()
    expected = np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])
    pairs = (permute_qk(weight, heads) @ x).reshape(-1, 2)
    a, b = pairs[:, 0], pairs[:, 1]
    found = np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 3), st.integers(1, 4))
def test_unpermute_is_the_inverse(heads, half, beyond, cols):
    values = np.random.default_rng(1).standard_normal((heads * (2 * half + beyond), cols)).astype(np.float32)
    assert np.array_equal(unpermute_qk(permute_qk(values, heads, 2 * half), heads, 2 * half), values)
    assert np.array_equal(permute_qk(unpermute_qk(values, heads, 2 * half), heads, 2 * half), values)


@pytest.mark.parametrize(
    ("count", "heads", "rope"), [(15, 2, None), (16, 0, None), (6, 2, None), (16, 2, 10), (16, 2, 3)]
)
def test_what_cannot_be_split_is_refused(count, heads, rope):
    with pytest.raises(PlanError):
        permute_qk(rows(count), heads, rope)
