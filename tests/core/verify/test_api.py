"""The public API of verification, as a program uses it."""

import dataclasses

import pytest

from conform.contract import Contract, load_contract
from conform.core.errors import GGUFError
from conform.core.export import ExportRequest, export_checkpoint
from conform.core.verify import verify_file


@pytest.fixture
def exported(registry, checkpoint):
    (report,) = export_checkpoint(checkpoint, ExportRequest(("f16",)), registry)
    return report.path


def test_a_file_is_held_against_the_contract_that_it_carries(registry, exported, micro):
    verification = verify_file(exported, registry)
    assert verification.conforms
    assert verification.findings == ()
    assert verification.file == exported
    assert verification.contract.digest == micro.digest


def test_a_file_is_held_against_the_contract_asked_for(registry, exported, micro):
    deeper = dataclasses.replace(micro, model=dataclasses.replace(micro.model, layers=3))
    verification = verify_file(exported, registry, deeper)
    assert not verification.conforms
    assert verification.contract is deeper
    assert "blk.2.attn_q.weight" in {finding.where for finding in verification.findings}


def test_a_warning_does_not_fail_the_file(registry, exported, micro):
    stored = dataclasses.replace(micro, storage=dataclasses.replace(micro.storage, norm="f16"))
    findings = verify_file(exported, registry, stored).findings
    assert {finding.severity for finding in findings} == {"error", "warning"}
    warned = dataclasses.replace(verify_file(exported, registry), findings=findings[1:])
    assert warned.conforms


def test_what_is_not_a_gguf_file_is_an_error(registry, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"hello, world, this is not a model")
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        verify_file(path, registry)


def test_a_contract_is_opened_by_name():
    contract = load_contract("nano")
    assert isinstance(contract, Contract)
    assert contract.name == "nano"
