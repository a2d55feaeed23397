import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.contract.inventory import inventory
from conform.core.errors import PlanError, QuantizeError
from conform.core.export.transform import Rotary, Transform, permute_qk, transform_of
from conform.core.i2_s.ternary import effective


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
def test_every_row_goes_where_the_drawing_says(heads, half, beyond, cols):
    values = np.random.default_rng(1).standard_normal((heads * (2 * half + beyond), cols)).astype(np.float32)
    before, after = (each.reshape(heads, -1, cols) for each in (values, permute_qk(values, heads, 2 * half)))
    assert np.array_equal(after[:, 0 : 2 * half : 2], before[:, :half])
    assert np.array_equal(after[:, 1 : 2 * half : 2], before[:, half : 2 * half])
    assert np.array_equal(after[:, 2 * half :], before[:, 2 * half :])


@pytest.mark.parametrize(
    ("count", "heads", "rope"), [(15, 2, None), (16, 0, None), (6, 2, None), (16, 2, 10), (16, 2, 3)]
)
def test_what_cannot_be_split_is_refused(count, heads, rope):
    with pytest.raises(PlanError):
        permute_qk(rows(count), heads, rope)


def test_a_transform_says_what_it_does():
    rotary = Rotary(2, 4)
    assert [str(Transform(t, p)) for t in (False, True) for p in (None, rotary)] == [
        "none",
        "permute",
        "ternarise",
        "ternarise, permute",
    ]


def test_values_are_ternarised_before_they_are_moved():
    values = np.random.default_rng(2).standard_normal((16, 8)).astype(np.float32)
    kept = values.copy()
    found = Transform(ternarise=True, permute=Rotary(2, 4)).apply(values)
    assert np.array_equal(found, permute_qk(effective(values), 2, 4))
    assert found.flags.c_contiguous
    assert np.array_equal(values, kept)


def test_stored_ternary_values_are_kept_and_others_are_refused():
    values = np.array([[0.5, -0.5, 0], [0, 0.5, 0.5]], np.float32)
    transform = Transform(stored_ternary=True)
    assert str(transform) == "none"
    assert np.array_equal(transform.apply(values), values)
    values[1, 1] = 0.25
    with pytest.raises(QuantizeError, match="not ternary"):
        transform.apply(values)


def test_no_transform_leaves_every_value():
    assert np.array_equal(Transform().apply(rows(6).T), rows(6).T)


def test_the_transform_follows_from_model_and_role(micro):
    by_role = {spec.role: transform_of(micro.model, spec) for spec in inventory(micro.model)}
    assert by_role["attn_q"] == Transform(permute=Rotary(micro.model.heads, micro.model.rope_dim))
    assert by_role["attn_k"] == Transform(permute=Rotary(micro.model.kv_heads, micro.model.rope_dim))
    assert by_role["attn_v"] == by_role["token_embd"] == Transform()


def test_only_linear_layers_are_ternary(micro_ternary):
    stored = dataclasses.replace(micro_ternary.model, linear="ternary-stored")
    for model, expected in ((micro_ternary.model, (True, False)), (stored, (False, True))):
        by_role = {spec.role: transform_of(model, spec) for spec in inventory(model)}
        assert (by_role["ffn_up"].ternarise, by_role["ffn_up"].stored_ternary) == expected
        assert by_role["token_embd"] == by_role["output_norm"] == Transform()
