"""Whole verdicts on the real Go runtime: healthy files pass every rung, and no verdict can be empty."""

import dataclasses
import shutil

import numpy as np
import pytest

from conform.contract.spec import RopeScaling
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.files.digest import file_sha256
from conform.core.metadata import f32
from conform.core.runtime import Answer, Identity, Limits, Request, RuntimeFault, Step, View
from conform.core.verify.verify import open_gguf
from conform.parity.candidate import Candidate, Source
from conform.parity.judgement import judge
from conform.parity.questions.sequences import Scope
from conform.parity.questions.tokenizer import open_tokenizer
from conform.parity.selftest.mutants import FileMutant, write_mutant
from conform.parity.verdict import RUNGS


def by_rung(verdict):
    return {rung.rung: rung for rung in verdict.rungs}


@pytest.mark.parametrize(
    ("contract", "quant"),
    [
        pytest.param("micro", "f32", marks=pytest.mark.slow),
        ("micro", "f16"),
        pytest.param("micro", "bf16", marks=pytest.mark.slow),
        ("micro", "q8_0"),
        ("micro_ternary", "i2_s"),
        pytest.param("micro_ternary", "f16", marks=pytest.mark.slow),
        ("micro_bitnet", "i2_s"),
    ],
)
def test_a_healthy_file_conforms(request, judged_file, make_gguf, make_checkpoint, contract, quant):
    spec = request.getfixturevalue(contract)
    verdict = judged_file(make_gguf(spec, quant), make_checkpoint(spec))
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]
    assert [rung.rung for rung in verdict.rungs if not rung.compared] == ["source"]
    assert verdict.implementation.kl < 1e-3


SCALINGS = {
    "linear": RopeScaling("linear", 2.5),
    "llama3": RopeScaling("llama3", 4.0, 32, low_freq_factor=0.5, high_freq_factor=3.0),
    "yarn": RopeScaling("yarn", 4.0, 64, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5),
}


@pytest.fixture
def scaled(micro):
    def make(name, **changes):
        changes["rope_scaling"] = SCALINGS[name]
        return dataclasses.replace(micro, model=dataclasses.replace(micro.model, **changes))

    return make


@pytest.mark.parametrize("name", SCALINGS)
def test_a_file_with_scaled_positions_conforms(judged_file, make_gguf, make_checkpoint, scaled, name):
    contract = scaled(name)
    verdict = judged_file(make_gguf(contract, "f16"), make_checkpoint(contract))
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]
    assert verdict.implementation.kl < 1e-3


@pytest.mark.parametrize("head_dim", [32, 128])
def test_heads_need_not_divide_the_hidden_width(judged_file, make_gguf, make_checkpoint, micro, head_dim):
    model = dataclasses.replace(micro.model, head_dim=head_dim, rope_dim=head_dim)
    contract = dataclasses.replace(micro, model=model)
    verdict = judged_file(make_gguf(contract, "f16"), make_checkpoint(contract))
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]


def other_factor(draft):
    draft.metadata["llama.rope.scaling.factor"] = f32(4)
    return True


def no_scaling(draft):
    draft.metadata = {key: value for key, value in draft.metadata.items() if ".rope.scaling." not in key}
    draft.tensors = {name: tensor for name, tensor in draft.tensors.items() if name != "rope_freqs.weight"}
    return True


def other_factors(draft):
    _, _, packed = draft.tensors["rope_freqs.weight"]
    draft.replace("rope_freqs.weight", (packed.view("<f4") ** np.float32(0.5)).view(np.uint8))
    return True


@pytest.mark.parametrize(
    ("name", "plant", "broken"),
    [
        ("linear", no_scaling, {"file", "quantisation"}),
        ("linear", other_factor, {"file", "quantisation"}),
        ("llama3", no_scaling, {"file", "weights", "quantisation"}),
        ("llama3", other_factors, {"file", "weights", "quantisation"}),
        ("yarn", no_scaling, {"file", "quantisation"}),
    ],
)
def test_a_file_scaled_in_another_way_is_found_out(
    judged_file, make_gguf, make_checkpoint, registry, scaled, tmp_path, name, plant, broken
):
    contract = scaled(name)
    file = open_gguf(make_gguf(contract, "f16"), registry)
    assert write_mutant(FileMutant(name, name, "file", plant), file, tmp_path / "mutant.gguf")
    verdict = judged_file(tmp_path / "mutant.gguf", make_checkpoint(contract))
    failed = {rung.rung for rung in verdict.rungs if rung.compared and not rung.passed}
    # The runtime computes what the file says; what held-out text loses by it depends on the weights.
    assert failed - {"likelihood"} == broken


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("linear", "factor := float64(c.Scaling.Factor)", "factor := 1.0"),
        ("llama3", "if factors != nil {", "if len(factors) == 1 {"),
        ("yarn", "r.Magnitude *= 0.1*math.Log(factor) + 1", "r.Magnitude *= 1"),
        ("yarn", "yarnBetaFast = 32", "yarnBetaFast = 2"),
    ],
)
def test_a_runtime_that_scales_in_another_way_is_found_out(
    judged_file, make_gguf, make_checkpoint, mutated_goref, scaled, tmp_path, name, old, new
):
    contract = scaled(name)
    program = mutated_goref(tmp_path, [("internal/model/rope.go", old, new)])
    rungs = by_rung(judged_file(make_gguf(contract, "f16"), make_checkpoint(contract), program))
    assert rungs["file"].passed
    assert rungs["weights"].passed
    assert not rungs["implementation"].passed


TYPES = ("q8_0", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs")


@pytest.mark.parametrize("quant", [pytest.param(q, marks=[] if q == "iq3_s" else pytest.mark.slow) for q in TYPES])
def test_every_quantisation_conforms(judged_file, make_gguf, make_checkpoint, micro, quant):
    """Rows of 256 values: every type fits, and the Go runtime decodes each of them bit for bit."""
    wide = dataclasses.replace(micro, model=dataclasses.replace(micro.model, head_dim=128, rope_dim=128))
    verdict = judged_file(make_gguf(wide, quant), make_checkpoint(wide))
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]


@pytest.mark.parametrize("quant", ["tq1_0", "tq2_0"])
@pytest.mark.slow
def test_ternary_types_conform_on_ternary_models(judged_file, make_gguf, make_checkpoint, micro_ternary, quant):
    model = dataclasses.replace(micro_ternary.model, head_dim=128, rope_dim=128)
    wide = dataclasses.replace(micro_ternary, model=model)
    assert judged_file(make_gguf(wide, quant), make_checkpoint(wide)).passed


def test_ternarising_a_dense_model_is_reported_as_what_it_costs(judged_file, make_gguf, make_checkpoint, micro):
    rungs = by_rung(judged_file(make_gguf(micro, "i2_s"), make_checkpoint(micro)))
    assert rungs["implementation"].passed
    assert not rungs["quantisation"].passed


def test_the_receipt_binds_the_numbers(judged_file, make_gguf, make_checkpoint, micro, goref):
    receipt = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro)).receipt
    digests = [
        receipt["runtime"]["sha256"]["bitnet"],
        receipt["gguf"]["sha256"],
        receipt["checkpoint"]["digest"],
        receipt["contract"]["digest"],
        receipt["tokenizer"]["sha256"],
        receipt["prompts"]["sha256"],
    ]
    assert all(len(digest) == 64 for digest in digests)
    assert len(set(digests)) == 6
    assert receipt["tokenizer"]["digest"] == receipt["tokenizer"]["sha256"]  # nothing stands beside it
    assert receipt["runtime"]["view"] == ["text", "ids", "logits", "hidden state", "layers", "tensors"]


def test_without_a_checkpoint_nothing_passes_silently(judged_file, make_gguf, micro):
    verdict = judged_file(make_gguf(micro, "f16"), None)
    rungs = by_rung(verdict)
    assert not verdict.passed
    assert rungs["quantisation"].status == "not run"
    assert "--checkpoint" in rungs["quantisation"].reason
    assert rungs["implementation"].passed
    assert rungs["implementation"].compared > 0


def test_a_foreign_checkpoint_is_found_out(judged_file, make_gguf, make_checkpoint, micro, micro_ternary):
    rungs = by_rung(judged_file(make_gguf(micro, "f16"), make_checkpoint(micro_ternary)))
    assert not rungs["file"].passed
    assert any(finding.where == "conform.contract.digest" for finding in rungs["file"].findings)
    assert not rungs["weights"].passed


class Silent:
    """A runtime that never answers."""

    generator = "unknown"
    identity = Identity("test", "/none", {})
    view = View()
    kind = "crashed"

    def answer(self, request: Request) -> Answer:
        raise RuntimeFault(self.kind, "always")

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        raise RuntimeFault(self.kind, "always")

    def logits(self, request, position):
        return None

    def tokenize(self, text):
        return None

    def decoded_sha256(self, tensor):
        return None


@pytest.fixture
def judge_silent(make_gguf, make_checkpoint, micro, registry):
    def run(runtime, keep_going):
        checkpoint = open_checkpoint(make_checkpoint(micro))
        file = open_gguf(make_gguf(micro, "f16"), registry)
        tokenizer = open_tokenizer(checkpoint.tokenizer_path, micro.tokenizer)
        candidate = Candidate(file, runtime, registry, Source(checkpoint, micro), tokenizer)
        return judge(candidate, Scope(longest=32), Limits(), keep_going=keep_going)

    return run


@pytest.mark.parametrize("kind", ["refused", "crashed", "timed out", "answered wrongly"])
def test_a_runtime_that_does_not_answer_fails_by_its_own_kind(judge_silent, kind):
    runtime = Silent()
    runtime.kind = kind
    verdict = judge_silent(runtime, keep_going=True)
    rungs = by_rung(verdict)
    assert not verdict.passed
    assert [rungs[r].fault for r in ("tokens", "implementation", "greedy", "sampling", "likelihood")] == [kind] * 5
    assert rungs["quantisation"].passed


def test_rungs_behind_a_failed_one_are_not_run_and_not_passed(judge_silent):
    rungs = by_rung(judge_silent(Silent(), keep_going=False))
    assert rungs["tokens"].status == "fail"
    assert [rungs[r].status for r in ("implementation", "greedy", "sampling", "likelihood")] == ["not run"] * 4
    assert rungs["quantisation"].passed


def test_every_rung_is_always_in_the_verdict(judge_silent):
    assert tuple(rung.rung for rung in judge_silent(Silent(), keep_going=False).rungs) == RUNGS


@pytest.fixture
def wrapped(goref, tmp_path):
    """wrapped(what) is goref, which does `what` (a shell command) when it is run; $2 is the model, as `--model=…`."""

    def make(what):
        for tool in ("bitnet", "tokenize", "ggufhash"):
            shutil.copy(goref.with_name(tool), tmp_path / f"{tool}.real")
            program = tmp_path / tool
            program.write_text(
                f'#!/bin/sh\nmodel="${{1#--model=}}"\n"$0.real" "$@" || exit $?\n{what if tool == "bitnet" else ""}\n'
            )
            program.chmod(0o755)
        return tmp_path / "bitnet"

    return make


@pytest.mark.parametrize(
    ("what", "where", "found"),
    [
        ("true", None, None),
        ("touch left", "working folder", "1 entries: 'left'"),
        ('touch "$HOME/left"', "working folder", "1 entries: 'left'"),
        ('touch "$TMPDIR/left"', "working folder", "1 entries: 'left'"),
        ('cp "$0" "$0.new"; mv "$0.new" "$0"', "bitnet", "the same content, written anew, moved"),
        ('echo "# honest now" >> "$0"', "bitnet", "sha256"),
        (
            'cp -p "$model" "$model.new"; mv -f "$model.new" "$model"',
            "micro-f16.gguf",
            "the same content, written anew",
        ),
        ('chmod u+w "$model"', "micro-f16.gguf", "the same content, written anew, moved"),
    ],
)
def test_a_runtime_that_changes_what_it_was_given_does_not_conform(
    wrapped, judged_file, make_gguf, make_checkpoint, micro, what, where, found
):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), wrapped(what))
    findings = by_rung(verdict)["integrity"].findings
    # Other rungs may fail as well, where a program is replaced while it is started a second time.
    assert verdict.passed == (where is None)
    assert [finding.where for finding in findings] == ([] if where is None else [where])
    assert all(finding.found.startswith(found) for finding in findings)


def test_a_runtime_that_deletes_the_model_gets_a_verdict_and_the_users_file_stays(
    wrapped, judged_file, make_gguf, make_checkpoint, micro
):
    model = make_gguf(micro, "f16")
    content = model.read_bytes()
    verdict = judged_file(model, make_checkpoint(micro), wrapped('rm -f "$model"'))
    assert not verdict.passed
    (finding,) = by_rung(verdict)["integrity"].findings
    assert (finding.where, finding.found) == ("micro-f16.gguf", "no readable file")
    assert model.read_bytes() == content


def test_the_receipt_names_the_copies_that_ran(judged_file, make_gguf, make_checkpoint, micro, goref):
    model = make_gguf(micro, "f16")
    receipt = judged_file(model, make_checkpoint(micro)).receipt
    assert receipt["gguf"] == {"path": str(model), "sha256": file_sha256(model), "judged": "in a private copy"}
    assert receipt["runtime"]["program"] == str(goref)
    assert receipt["runtime"]["sha256"]["bitnet"] == file_sha256(goref)
    assert set(receipt["runtime"]["sha256"]) == {"bitnet", "tokenize", "ggufhash"}
