"""Values that quantizers meet, for Hypothesis: it draws the shape, the seed of the bulk, and what stands out."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

_seeds = st.integers(0, 2**32 - 1)


def examples(count):
    """So many examples, the same in every run."""
    return settings(max_examples=count, derandomize=True)


def singles(smallest, largest):
    """float32 from about `smallest` to about `largest`."""
    return st.floats(float(np.float32(smallest)), float(np.float32(largest)), width=32, allow_subnormal=smallest == 0)


def bell_weights(kind):
    """(32, 1024) float32 like weights: "gauss", or "t3" with its heavy tails; always the same."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal((32, 1024)) if kind == "gauss" else rng.standard_t(3, (32, 1024))
    return (values * 0.02).astype(np.float32)


def log_normal_importance():
    """(1024,) float32, some columns mattering far more than others; always the same."""
    rng = np.random.default_rng(8)
    return (np.exp(rng.standard_normal(1024)) * rng.chisquare(3, 1024)).astype(np.float32)


@st.composite
def matrices(draw, cols, *, rows=4, magnitude=1000.0, smallest=0.0):
    """(1 … rows, k·cols) float32 of magnitude `smallest` to `magnitude`, or zero."""
    shape = (draw(st.integers(1, rows)), cols * draw(st.integers(1, 2)))
    rng = np.random.default_rng(draw(_seeds))
    lowest = np.log(max(smallest, 1e-30))
    highest = np.log(draw(singles(max(2 * smallest, 1e-29), magnitude)))
    values = np.exp(rng.uniform(lowest, highest, shape)) if draw(st.booleans()) else rng.normal(0, 1, shape)
    values = np.clip(np.abs(values), max(smallest, 1e-30), np.exp(highest)) * rng.choice([-1, 1], shape)
    values *= rng.random(shape) < draw(st.sampled_from([1.0, 0.5, 0.02]))
    values = values.astype(np.float32)
    for place, value in draw(st.lists(st.tuples(st.integers(0, values.size - 1), singles(smallest, magnitude)))):
        values.ravel()[place] = value * draw(st.sampled_from([-1, 1]))
    return values


@st.composite
def ternary_matrices(draw, cols, scales):
    """(rows, cols) of -c, 0, +c for one c of `scales`."""
    shape = (draw(st.integers(1, 4)), cols)
    weights = draw(st.sampled_from([(1, 1, 1), (0, 1, 0), (1, 0, 0), (1, 30, 1)]))
    signs = np.random.default_rng(draw(_seeds)).choice([-1, 0, 1], shape, p=np.divide(weights, sum(weights)))
    return signs.astype(np.float32) * np.float32(draw(scales))
