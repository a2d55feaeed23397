"""Every planted fault of the runtime is caught by the rung that it breaks; the healthy runtime is judged elsewhere."""

import pytest

from conform.core.errors import ConformError
from conform.parity.goref.patch import patched_sources
from conform.parity.goref.toolchain import GOREF_SOURCES
from conform.parity.selftest.faulty_runtimes import build_faulty, faulty_runtimes

FAULTS = {fault.name: fault for fault in faulty_runtimes()}
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


PATCH = """\
What: the runtime calls itself something else
Breaks: tokens
Only: i2_s

--- a/go.mod
+++ b/go.mod
@@ -1,3 +1,3 @@
-module conform/goref
+module other

 go 1.23
"""


@pytest.mark.parametrize("name", FAULTS)
def test_a_patch_applies_to_the_sources_as_they_are(name, tmp_path):
    """Without a build, so that a patch left behind by a change of goref is named within a second."""
    patched_sources(FAULTS[name].edits, tmp_path)


def test_a_new_patch_is_a_new_fault(tmp_path):
    (tmp_path / "renamed.patch").write_text(PATCH)
    (fault,) = faulty_runtimes(tmp_path)
    assert (fault.name, fault.what, fault.breaks, fault.only) == (
        "renamed", "the runtime calls itself something else", "tokens", "i2_s"
    )  # fmt: skip
    sources = patched_sources(fault.edits, tmp_path / "goref")
    assert (sources / "go.mod").read_text() == (GOREF_SOURCES / "go.mod").read_text().replace("conform/goref", "other")


def test_a_patch_that_no_longer_applies_is_named(tmp_path):
    (tmp_path / "renamed.patch").write_text(PATCH.replace("-module conform/goref", "-module older"))
    (fault,) = faulty_runtimes(tmp_path)
    with pytest.raises(ConformError, match=r"renamed\.patch:7: .* 0 times in goref's go\.mod"):
        build_faulty(fault)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Breaks: tokens\n", "", "header"),
        ("Breaks: tokens", "Breaks: everything", "everything"),
        ("Only: i2_s", "Only: q99", "q99"),
        ("Only: i2_s", "Unless: i2_s", "Unless"),
        ("Only: i2_s", "Breaks: file", "header"),
        ("Only: i2_s\n\n", "Only: i2_s\n", "header"),
        (PATCH.partition("\n\n")[2], "", "no hunk"),
    ],
)
def test_a_malformed_patch_is_named(tmp_path, old, new, says):
    (tmp_path / "wrong.patch").write_text(PATCH.replace(old, new))
    with pytest.raises(ConformError, match=rf"wrong\.patch.*{says}"):
        faulty_runtimes(tmp_path)
