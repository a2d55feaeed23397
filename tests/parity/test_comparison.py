import numpy as np

from conform.parity.comparison import Logits, Question, compare, joined

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(6, 16)).astype(np.float32)
RUNTIME = REFERENCE + RNG.normal(0, 1e-3, REFERENCE.shape).astype(np.float32)


def logits(rows, perturbed=True):
    return Logits(REFERENCE[rows], REFERENCE[rows], RUNTIME[rows] if perturbed else None, RUNTIME[rows])


def question(rows):
    best = RUNTIME[rows].argmax(axis=1)
    return Question(np.arange(6)[rows], best, RUNTIME[rows].max(axis=1).astype(np.float64))


def flat(comparison):
    figures = [comparison.runtime.nmse, comparison.noise.max_abs, comparison.flips.nmse, comparison.kl]
    figures += [*comparison.likelihoods.values(), comparison.reference_best, comparison.reference_gap]
    return [*figures, comparison.best.claimed, comparison.best.found, comparison.best.error, comparison.best.behind]


def test_blocks_of_rows_give_the_figures_of_all_rows():
    everything = compare(logits(slice(None)), question(slice(None)))
    parts = [compare(logits(rows), question(rows)) for rows in (slice(0, 2), slice(2, 5), slice(5, 6))]
    for whole, joint in zip(flat(everything), flat(joined(parts)), strict=True):
        np.testing.assert_array_equal(whole, joint)


def test_each_figure_is_what_it_says():
    figures = compare(logits(slice(None)), question(slice(None)))
    assert figures.noise.max_abs.max() == 0
    np.testing.assert_array_equal(figures.reference_best, REFERENCE.argmax(axis=1))
    np.testing.assert_array_equal(figures.reference_gap, REFERENCE.max(axis=1) - REFERENCE[range(6), range(6)])
    probabilities = np.exp(RUNTIME.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(figures.likelihoods["runtime"], -np.log(probabilities[range(6), range(6)]))


def test_a_runtime_that_claims_its_own_best_logit_is_right():
    best = compare(logits(slice(None)), question(slice(None))).best
    assert best.error.max() == 0
    assert best.behind.max() == 0
    np.testing.assert_array_equal(best.claimed, best.found)


def test_without_quantised_activations_there_are_no_flips():
    part = compare(logits(slice(None), perturbed=False), question(slice(None)))
    assert part.flips is None
    assert joined([part, part]).flips is None


def test_no_rows_have_no_figures():
    nothing = compare(logits(slice(0, 0)), question(slice(0, 0)))
    assert all(len(figures) == 0 for figures in flat(joined([nothing])))
