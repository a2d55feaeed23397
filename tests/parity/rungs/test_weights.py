import hashlib

import numpy as np
import pytest

from conform.core.gguf.types import I2_S
from conform.core.i2_s.ternary import effective
from conform.parity.rungs.weights import StoredTensor, StoredWeights, judge_weights

F32, F16, Q8_0 = 0, 1, 8
VALUES = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
AS_F16 = VALUES.astype(np.float16).astype(np.float32)


def judged(*tensors, digests=None, ternary=False):
    return judge_weights(StoredWeights(iter(tensors), digests or {}, ternary))


def stored(expected, type_id, decoded, name="blk.0.attn_q.weight"):
    return StoredTensor(name, expected, type_id, decoded)


def sha256(values):
    return hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize(("type_id", "decoded"), [(F32, VALUES), (F16, AS_F16), (Q8_0, VALUES * np.float32(1.005))])
def test_what_the_type_must_hold_passes(type_id, decoded):
    result = judged(stored(VALUES, type_id, decoded))
    assert result.passed
    assert result.compared == 1


@pytest.mark.parametrize(
    ("type_id", "decoded"),
    [
        (F32, AS_F16),
        (F16, VALUES),
        (Q8_0, VALUES * np.float32(1.1)),
        (Q8_0, np.full_like(VALUES, np.nan)),
        (F32, VALUES[:2]),
        (None, None),
    ],
)
def test_anything_else_fails_by_name(type_id, decoded):
    result = judged(stored(None if type_id is None else VALUES, type_id, decoded))
    assert not result.passed
    assert result.findings[0].where == "blk.0.attn_q.weight"


def test_i2_s_of_ternary_weights_is_exact_and_of_dense_ones_lossy():
    ternary = effective(VALUES)
    assert judged(stored(ternary, I2_S, ternary), ternary=True).passed
    assert not judged(stored(ternary, I2_S, ternary * np.float32(1.01)), ternary=True).passed
    assert judged(stored(VALUES, I2_S, ternary)).measurements[1].name.startswith("relative error")


def test_a_runtime_that_decodes_alike_passes_and_another_does_not():
    tensor = stored(VALUES, F32, VALUES)
    assert judged(tensor, digests={tensor.name: sha256(VALUES)}).compared == 2
    result = judged(tensor, digests={tensor.name: sha256(AS_F16)})
    assert not result.passed
    assert result.findings[0].hint == "as the runtime decodes it"


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_a_tensor_that_only_the_file_has_is_hashed_and_not_compared(digest):
    own = StoredTensor("rope_freqs.weight", None, F32, VALUES)
    assert judged(stored(VALUES, F32, VALUES), own).compared == 1
    assert not judged(stored(VALUES, F32, VALUES), own, digests={own.name: digest}).passed
    assert judged(stored(VALUES, F32, VALUES), own, digests={own.name: sha256(VALUES)}).passed


def test_one_tensor_is_held_at_a_time():
    drawn = []

    def tensors():
        for number in range(3):
            drawn.append(number)
            yield stored(VALUES, F32, VALUES, f"blk.{number}.attn_q.weight")

    assert judge_weights(StoredWeights(tensors(), {}, ternary=False)).compared == 3
    assert drawn == [0, 1, 2]


def test_no_tensor_at_all_is_not_a_pass():
    assert judged().reason == "nothing was compared"


def test_without_a_checkpoint_it_is_not_run_and_blocks_nothing():
    result = judge_weights(None)
    assert result.status == "not run"
    assert not result.blocks
