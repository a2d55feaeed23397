import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from conform.parity.reference.metrics import (
    average,
    closeness,
    divergences,
    log_softmax,
    negative_log_likelihoods,
    summary,
)

LOGITS = npst.arrays(np.float32, (3, 8), elements=st.floats(-20, 20, width=32))


def test_equal_logits_have_no_distance():
    logits = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    assert closeness(logits, logits).nmse.max() == 0
    assert summary(*divergences(logits, logits)).largest == 0


def test_one_wrong_row_is_not_drowned_by_right_ones():
    reference = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    subject = reference.copy()
    subject[500] = -subject[500]
    measured = closeness(reference, subject)
    assert measured.nmse.argmax() == 500
    assert measured.nmse[500] > 1


def test_nmse_is_the_mean_square_over_the_variance():
    reference = np.array([[0.0, 2.0]], dtype=np.float32)
    assert closeness(reference, reference + 1).nmse[0] == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_infinitely_far(bad, side):
    pair = [np.ones((2, 4), dtype=np.float32) * np.arange(4, dtype=np.float32) for _ in range(2)]
    pair[side][1, 2] = bad
    measured = closeness(*pair)
    assert measured.nmse[0] == 0
    assert np.isinf(measured.nmse[1])
    assert np.isinf(measured.max_abs[1])
    assert np.isinf(divergences(*pair)[0][1])


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2, 0), (6,)])
def test_rows_that_cannot_be_paired_are_refused(shape):
    with pytest.raises(ValueError, match="cannot be compared"):
        closeness(np.zeros((2, 2), dtype=np.float32), np.zeros(shape, dtype=np.float32))


@given(LOGITS, LOGITS)
def test_divergence_is_the_textbook_sum_over_the_vocabulary(reference, subject):
    p = np.exp(log_softmax(reference))
    expected = (p * (log_softmax(reference) - log_softmax(subject))).sum(axis=1)
    np.testing.assert_allclose(divergences(reference, subject)[0], np.maximum(expected, 0), atol=1e-12)


@given(LOGITS, st.floats(-50, 50))
def test_a_shift_of_all_logits_changes_nothing(logits, shift):
    kl, _ = divergences(logits, (logits + np.float32(shift)).astype(np.float32))
    assert kl.max() < 1e-6
    assert np.isfinite(kl).all()


def test_divergence_does_not_shrink_with_the_vocabulary():
    """Averaging over the vocabulary would divide by its size."""
    small = np.array([[0.0, 1.0]], dtype=np.float32)
    wide = np.concatenate([small, np.full((1, 100_000), -1e4, dtype=np.float32)], axis=1)
    flipped = np.concatenate([small[:, ::-1], wide[:, 2:]], axis=1)
    assert divergences(wide, flipped)[0][0] == pytest.approx(divergences(small, small[:, ::-1])[0][0])


def test_nothing_compared_is_infinite():
    empty = summary(np.empty(0), np.empty(0, dtype=bool))
    assert np.isinf(empty.mean)
    assert empty.positions == 0
    nothing = negative_log_likelihoods(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int64))
    assert np.isinf(average(nothing))


def test_likelihood_of_a_uniform_model_is_the_logarithm_of_its_vocabulary():
    logits = np.zeros((5, 32), dtype=np.float32)
    assert average(negative_log_likelihoods(logits, np.arange(5))) == pytest.approx(np.log(32))
