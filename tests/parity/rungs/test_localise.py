import numpy as np
import pytest

from conform.parity.rungs.localise import first_diverging_vector

NAMES = ("attn_norm", "Qcur", "attn_softmax_h0", "attn_softmax_h1", "ffn_act")


def vectors(layers=2):
    rng = np.random.default_rng(0)
    return {(layer, name): rng.normal(size=8).astype(np.float32) for layer in range(layers) for name in NAMES}


def test_the_same_vectors_do_not_diverge():
    assert first_diverging_vector(vectors(), vectors(), 3) is None


@pytest.mark.parametrize(
    ("name", "suspect"),
    [("Qcur", "blk.0.attn_q.weight"), ("attn_softmax_h1", "rotary embedding"), ("ffn_act", "blk.0.ffn_gate.weight,")],
)
def test_the_first_that_diverges_in_order_of_computation_is_named(name, suspect):
    found = vectors()
    found[0, name] = found[0, name] * 2
    found[1, "attn_norm"] = found[1, "attn_norm"] * 3
    diverging = first_diverging_vector(vectors(), found, 3)
    assert (diverging.layer, diverging.name, diverging.position) == (0, name, 3)
    assert suspect in diverging.finding().hint


def test_vectors_that_are_not_reported_are_passed_over():
    found = {place: values for place, values in vectors().items() if place[1] != "Qcur"}
    assert first_diverging_vector(vectors(), found, 0) is None
    assert first_diverging_vector(vectors(), {}, 0) is None


def test_a_layer_that_is_not_reported_at_all_diverges():
    found = {place: values for place, values in vectors().items() if place[0] == 0}
    diverging = first_diverging_vector(vectors(), found, 0)
    assert diverging.layer == 1
    assert "nothing of it is reported" in diverging.suspect


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.full(8, np.nan, np.float32)])
def test_another_width_or_a_number_that_is_not_finite_diverges(wrong):
    found = vectors()
    found[1, "Qcur"] = wrong
    assert first_diverging_vector(vectors(), found, 0).layer == 1
