"""A checkpoint with a byte-level tokenizer.json goes through export, verify and parity on goref."""

import pytest

from conform.core.verify import verify_file
from conform.core.verify.source import verify_against
from conform.parity.goref.patch import Edit
from conform.parity.selftest.faulty_runtimes import FaultyRuntime, build_faulty

FILES = ["micro_smollm", "micro_llama3"]


@pytest.fixture(params=FILES)
def contract(request):
    return request.getfixturevalue(request.param)


def rung(verdict, name):
    return next(result for result in verdict.rungs if result.rung == name)


def test_the_file_is_what_the_checkpoint_and_the_contract_say(contract, make_checkpoint, make_gguf, registry):
    path = make_gguf(contract, "f16")
    assert verify_file(path, registry, contract).findings == ()
    assert [
        f for f in verify_against(path, registry, make_checkpoint(contract)).findings if f.severity == "error"
    ] == []


def test_goref_conforms_with_the_checkpoint(contract, make_checkpoint, make_gguf, judged_file):
    verdict = judged_file(make_gguf(contract, "f16"), make_checkpoint(contract))
    failed = {result.rung: (result.reason, result.findings) for result in verdict.rungs if result.status == "fail"}
    assert failed == {}
    assert rung(verdict, "tokens").compared >= 50


def test_without_a_checkpoint_its_tokens_are_judged_by_the_files_own_keys(contract, make_gguf, judged_file):
    tokens = rung(judged_file(make_gguf(contract, "f16"), None), "tokens")
    assert (tokens.status, tokens.findings) == ("pass", ())
    assert any("ids by the file's own tokens and merges" in note for note in tokens.notes)


LATEST = Edit("internal/vocab/bytelevel.go", "return -rank, found", "return rank, found")


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_a_runtime_that_merges_in_another_order_fails(
    micro_smollm, make_checkpoint, make_gguf, judged_file, with_checkpoint
):
    program = build_faulty(FaultyRuntime("latest", "the last merge is made first", "tokens", (LATEST,)))
    checkpoint = make_checkpoint(micro_smollm) if with_checkpoint else None
    verdict = judged_file(make_gguf(micro_smollm, "f16"), checkpoint, program=program)
    assert rung(verdict, "tokens").status == "fail"
