"""Every planted fault of a file is caught by the rung that it breaks, on the real Go runtime, and by how much."""

import dataclasses

import pytest

from conform.core.errors import GGUFError
from conform.core.metadata import f32, u32
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


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_the_rope_base_is_another_than_the_file_s(make_gguf, micro, registry, tmp_path, base):
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, rope_base=base))
    write_mutant(MUTANTS["rope-base"], open_gguf(make_gguf(contract, "f16"), registry), tmp_path / "m.gguf")
    assert open_gguf(tmp_path / "m.gguf", registry).metadata["llama.rope.freq_base"] == 50 * base


def test_a_fault_that_does_not_apply_writes_nothing(make_gguf, micro, registry, tmp_path):
    assert not write_mutant(MUTANTS["i2_s-lanes"], open_gguf(make_gguf(micro, "f16"), registry), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "key"),
    [("qk-unpermuted", "attention.head_count"), ("kv-heads-rolled", "attention.head_count_kv"),
     ("last-layer-dropped", "block_count")],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, f32(2.0), u32(0)])
def test_a_file_without_the_count_that_a_fault_needs_is_refused(make_gguf, micro, registry, tmp_path, name, key, value):
    def spoil(draft):
        draft.metadata[f"llama.{key}"] = value
        if value is None:
            del draft.metadata[f"llama.{key}"]
        return True

    write_mutant(FileMutant("spoilt", "", "file", spoil), open_gguf(make_gguf(micro, "f16"), registry), tmp_path / "s")
    with pytest.raises(GGUFError, match=rf"llama\.{key}"):
        write_mutant(MUTANTS[name], open_gguf(tmp_path / "s", registry), tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["qk-unpermuted", "gate-up-swapped", "kv-heads-rolled", "tensor-zeroed"])
def test_a_file_without_the_tensors_that_a_fault_needs_has_nothing_to_plant_it_in(
    make_gguf, micro, registry, tmp_path, name
):
    def spoil(draft):
        draft.tensors = {name: tensor for name, tensor in draft.tensors.items() if not name.startswith("blk.")}
        return True

    write_mutant(FileMutant("spoilt", "", "file", spoil), open_gguf(make_gguf(micro, "f16"), registry), tmp_path / "s")
    assert not write_mutant(MUTANTS[name], open_gguf(tmp_path / "s", registry), tmp_path / "m.gguf")


def test_rows_that_the_heads_do_not_divide_are_refused(make_gguf, micro, registry, tmp_path):
    def spoil(draft):
        draft.metadata["llama.attention.head_count"] = u32(7)
        return True

    write_mutant(FileMutant("spoilt", "", "file", spoil), open_gguf(make_gguf(micro, "f16"), registry), tmp_path / "s")
    with pytest.raises(GGUFError, match=r"blk\.0\.attn_q\.weight: 384 rows"):
        write_mutant(MUTANTS["qk-unpermuted"], open_gguf(tmp_path / "s", registry), tmp_path / "m.gguf")
