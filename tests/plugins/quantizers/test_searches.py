"""What holds for every type that is searched, however: the tests of iq1_* to iq4_* that need no number of a type."""

import os
import sys

import numpy as np
import pytest

from conform.plugins.quantizers import iq1, iq2, iq3, iq4

sys.path.insert(0, os.path.dirname(__file__))
from strategies import bell_weights, log_normal_importance

TYPES = [quantizer for family in (iq1, iq2, iq3, iq4) for quantizer in family.conform_quantizers()]
by_type = pytest.mark.parametrize("quantizer", TYPES, ids=lambda q: q.name)


@by_type
def test_only_the_ratios_of_importance_count(quantizer):
    values, importance = bell_weights("t3")[:4], log_normal_importance()
    expected = quantizer.quantize(values, importance)
    np.testing.assert_array_equal(quantizer.quantize(values, importance * np.float32(2.0**60)), expected)
    np.testing.assert_array_equal(quantizer.quantize(values, importance * np.float32(2.0**-60)), expected)
    np.testing.assert_array_equal(quantizer.quantize(values, np.ones(1024, np.float32)), quantizer.quantize(values))


@by_type
def test_the_bytes_of_a_row_depend_on_that_row_alone(quantizer, monkeypatch):
    values, importance = bell_weights("t3"), log_normal_importance()
    monkeypatch.setenv("CONFORM_THREADS", "1")
    whole = quantizer.quantize(values, importance).reshape(len(values), -1)
    monkeypatch.setenv("CONFORM_THREADS", "3")
    np.testing.assert_array_equal(quantizer.quantize(values, importance).reshape(len(values), -1), whole)
    for rows in (slice(0, 1), slice(5, 12)):
        piece = quantizer.quantize(values[rows], importance).reshape(-1, whole.shape[1])
        np.testing.assert_array_equal(piece, whole[rows])
    np.testing.assert_array_equal(quantizer.quantize(values[3], importance), whole[3])
