"""Every planted fault of the runtime is caught by the rung that it breaks; the healthy runtime is judged elsewhere."""

import pytest

from conform.core.errors import ConformError
from conform.parity.selftest.faulty_runtimes import FAULTY_RUNTIMES, FaultyRuntime, build_faulty

FAULTS = {fault.name: fault for fault in FAULTY_RUNTIMES}
# One of each class in every run; the others take the same way through the code.
QUICK = {"kv-head-map", "fewer-layers", "i2_s-lanes", "prompt-dropped", "top-k-ignored"}


def caught(verdict, fault):
    return next(rung for rung in verdict.rungs if rung.rung == fault.breaks and not rung.passed)


def margin(rung):
    ratios = [m.measured / m.tolerance if m.tolerance else float("inf") for m in rung.measurements if not m.passed]
    return max(ratios, default=float("inf"))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAULTS])
def test_a_faulty_runtime_is_caught(judged_file, make_gguf, make_checkpoint, micro, micro_ternary, name):
    fault = FAULTS[name]
    contract, quant = (micro_ternary, "i2_s") if fault.only else (micro, "f16")
    verdict = judged_file(make_gguf(contract, quant), make_checkpoint(contract), program=build_faulty(fault))
    rung = caught(verdict, fault)
    print(f"{name}: {fault.breaks} out of tolerance by {margin(rung):.3g}x: {rung.reason[:160]}")
    assert not verdict.passed


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("activation", "blk.0 ffn_act"),
        ("kv-head-map", "blk.0 attn_softmax_h"),
        ("norms-off-by-one", "blk.0 attn_norm"),
        ("fewer-layers-denied", "blk.1"),
    ],
)
@pytest.mark.slow
def test_the_first_diverging_vector_is_named(judged_file, make_gguf, make_checkpoint, micro, name, where):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), program=build_faulty(FAULTS[name]))
    assert caught(verdict, FAULTS[name]).findings[0].where.startswith(where)


def test_an_edit_that_does_not_apply_is_an_error():
    fault = FaultyRuntime("none", "", "file", (("internal/model/forward.go", "no such text", ""),))
    with pytest.raises(ConformError, match="0 times"):
        build_faulty(fault)
