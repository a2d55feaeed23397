"""Values that quantizers meet, for Hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def singles(smallest, largest):
    """float32 from about `smallest` to about `largest`."""
    return st.floats(float(np.float32(smallest)), float(np.float32(largest)), width=32, allow_subnormal=smallest == 0)


def matrices(cols, *, rows=4, magnitude=1000.0, smallest=0.0):
    """(1 … rows, k·cols) float32 of magnitude `smallest` to `magnitude`, or zero."""
    shape = st.tuples(st.integers(1, rows), st.integers(1, 2)).map(lambda s: (s[0], s[1] * cols))
    positive = singles(smallest, magnitude)
    elements = st.one_of(st.just(0.0), positive, positive.map(lambda v: -v))
    return hnp.arrays(np.float32, shape, elements=elements)


def ternary_matrices(cols, scales):
    """(rows, cols) of -c, 0, +c for one c of `scales`."""
    shape = st.tuples(st.integers(1, 4), st.just(cols))
    signs = hnp.arrays(np.int8, shape, elements=st.integers(-1, 1))
    return st.tuples(signs, scales).map(lambda drawn: drawn[0].astype(np.float32) * np.float32(drawn[1]))
