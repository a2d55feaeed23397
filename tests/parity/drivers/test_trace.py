import numpy as np
import pytest

from conform.core.runtime import RuntimeFault
from conform.parity.drivers.trace import read_debug_logits, read_step

GOOD = b"""\
drift_trace step=3 pos=7 token=42 layers=2
drift_trace qkv_dims layer=0 q_heads=6 kv_heads=2 q_len=384 k_len=128 v_len=128
drift_trace values layer=0 name=Qcur values=1.5,-2,3e-05
drift_trace values layer=1 name=attn_softmax_h0 values=1
drift_trace output_norm_values=0.25,-0.333333343
drift_trace logits step=3 argmax_token=9 argmax_logit=12.5
"""


def test_every_field_is_read():
    step = read_step(GOOD, 3)
    assert (step.position, step.token, step.layers, step.argmax, step.argmax_logit) == (7, 42, 2, 9, 12.5)
    np.testing.assert_array_equal(step.hidden, np.array([0.25, -1 / 3], dtype=np.float32))
    np.testing.assert_array_equal(step.values[0, "Qcur"], np.array([1.5, -2, 3e-5], dtype=np.float32))
    assert set(step.values) == {(0, "Qcur"), (1, "attn_softmax_h0")}


def test_other_lines_between_do_not_matter():
    assert read_step(b"debug attn meta: heads=6\n2026/01/01 00:00:00 hello\n" + GOOD, 3).token == 42


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (b"", "nothing shows that it ran the model"),
        (GOOD.replace(b"drift_trace step=3 pos", b"drift_trace step=2 pos"), "asked to trace step 3"),
        (GOOD + GOOD, "2 lines"),
        (GOOD.replace(b"0.25,", b"zero,"), "not a list of numbers"),
        (GOOD.replace(b"output_norm_values", b"output_norm"), "output_norm_values"),
        (GOOD.replace(b"argmax_logit=12.5", b"argmax_logit=x"), "not a list of numbers"),
        (GOOD.replace(b"pos=7", b"pos=" + b"7" * 5000), "digits"),
        (GOOD.replace(b"token=42", b"token=-1"), "nothing shows"),
    ],
)
def test_a_wrong_trace_is_a_wrong_answer(stderr, reason):
    with pytest.raises(RuntimeFault, match=reason) as caught:
        read_step(stderr, 3)
    assert caught.value.kind == "answered wrongly"


def test_not_a_number_in_the_hidden_state_is_kept_for_the_metrics():
    assert np.isnan(read_step(GOOD.replace(b"0.25", b"NaN"), 3).hidden[0])


def test_debug_logits_are_read_by_id():
    stderr = (
        b"debug logits.stage.output_norm token=0 logit=1.5 more=1\ndebug logits.stage.output_norm token=7 logit=-2\n"
    )
    assert read_debug_logits(stderr) == {0: 1.5, 7: -2.0}
