"""Every planted fault of a file is caught by the rung that it breaks, on the real Go runtime, and by how much."""

import pytest

from conform.core.verify.verify import open_gguf
from conform.parity.selftest.mutants import FILE_MUTANTS, FileMutant, write_mutant

MUTANTS = {mutant.name: mutant for mutant in FILE_MUTANTS}
OTHERS = [
    ("qk-unpermuted", "micro", "f16"),
    ("gate-up-swapped", "micro", "q8_0"),
    ("norms-off-by-one", "micro_bitnet", "i2_s"),
    ("tensor-zeroed", "micro", "bf16"),
]
APPLY = [
    *(pytest.param(name, "micro_ternary", "i2_s") for name in MUTANTS),
    *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS),
]


def margins(verdict):
    """By how many times each failed rung is out of its tolerance; inf where the tolerance is exactness."""
    found = {}
    for rung in verdict.rungs:
        if not rung.passed:
            ratios = [
                m.measured / m.tolerance if m.tolerance else float("inf") for m in rung.measurements if not m.passed
            ]
            found[rung.rung] = max(ratios, default=float("inf"))
    return found


@pytest.mark.parametrize(("name", "contract", "quant"), APPLY)
def test_a_planted_fault_is_caught(
    request, judged_file, make_gguf, make_checkpoint, registry, tmp_path, name, contract, quant
):
    spec = request.getfixturevalue(contract)
    target = tmp_path / "mutant.gguf"
    assert write_mutant(MUTANTS[name], open_gguf(make_gguf(spec, quant), registry), target)
    verdict = judged_file(target, make_checkpoint(spec))
    found = margins(verdict)
    print(f"{name} on {quant}: {', '.join(f'{rung} {ratio:.3g}x' for rung, ratio in found.items())}")
    assert not verdict.passed
    assert MUTANTS[name].breaks in found


@pytest.mark.parametrize(
    "name", ["qk-unpermuted", "gate-up-swapped", "kv-heads-rolled", "rope-base", "norms-off-by-one"]
)
def test_a_fault_in_the_weights_also_costs_likelihood_or_divergence(
    judged_file, make_gguf, make_checkpoint, registry, tmp_path, micro, name
):
    """So that it would be caught even by whoever has no bit-exact rung to compare."""
    target = tmp_path / "mutant.gguf"
    write_mutant(MUTANTS[name], open_gguf(make_gguf(micro, "f16"), registry), target)
    found = margins(judged_file(target, make_checkpoint(micro)))
    assert found["quantisation"] > 10


def test_no_fault_planted_gives_the_same_tensors(make_gguf, micro, registry, tmp_path):
    """The writer of mutants itself changes nothing."""
    file = open_gguf(make_gguf(micro, "f16"), registry)
    nothing = FileMutant("nothing", "", "file", lambda draft: True)
    assert write_mutant(nothing, file, tmp_path / "same.gguf")
    same = open_gguf(tmp_path / "same.gguf", registry)
    assert same.metadata == file.metadata
    assert all((same.packed(name) == file.packed(name)).all() for name in file.tensors)


def test_a_fault_that_does_not_apply_writes_nothing(make_gguf, micro, registry, tmp_path):
    assert not write_mutant(MUTANTS["i2_s-lanes"], open_gguf(make_gguf(micro, "f16"), registry), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
