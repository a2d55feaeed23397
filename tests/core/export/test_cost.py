import math

import numpy as np
import pytest

from conform.core.export.cost import measure_cost


def test_the_relative_error_is_a_quotient_of_norms():
    rng = np.random.default_rng(0)
    source = rng.standard_normal((700, 300)).astype(np.float32)
    decoded = source + 0.01 * rng.standard_normal(source.shape).astype(np.float32)
    cost = measure_cost(source, decoded)
    exact = np.linalg.norm((decoded - source).astype(np.float64)) / np.linalg.norm(source.astype(np.float64))
    assert cost.relative_error == pytest.approx(exact, rel=1e-5)
    assert cost.weighted_relative_error == cost.relative_error


def test_importance_weighs_columns():
    source = np.ones((2, 3), np.float32)
    decoded = source + np.array([[1, 0, 0], [0, 0, 2]], np.float32)
    cost = measure_cost(source, decoded, np.array([3, 1, 0], np.float32))
    assert cost.weighted_errors == 3
    assert cost.weighted_relative_error == pytest.approx(math.sqrt(3 / 8))


def test_equal_values_cost_nothing_and_zeros_that_changed_cost_everything():
    zeros = np.zeros(4, np.float32)
    assert measure_cost(zeros, zeros).relative_error == 0
    assert measure_cost(zeros, zeros + 1).relative_error == math.inf
