import shutil
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from conform.contract.dump import dump_contract
from conform.contract.errors import ContractError
from conform.core.errors import CheckpointError, GGUFError
from conform.parity.candidate import open_candidate
from conform.parity.evidence import Evidence
from conform.parity.progress import silent
from conform.parity.questions.sequences import Scope

LAUNCHER = SimpleNamespace(open=lambda file: None)


@pytest.fixture
def alone(make_gguf, micro, tmp_path):
    """A file with no checkpoint beside it."""
    return shutil.copy(make_gguf(micro, "q8_0"), tmp_path / "alone.gguf")


def test_a_contract_is_used_where_there_is_no_checkpoint(alone, registry, micro, micro_ternary, tmp_path):
    for contract, faults in ((micro, 0), (micro_ternary, 1)):
        spec = tmp_path / f"{contract.name}.toml"
        spec.write_text(dump_contract(contract))
        candidate = open_candidate(alone, LAUNCHER, registry, contract=str(spec))
        assert candidate.source is None
        assert candidate.contract == contract
        wheres = [finding.where for finding in Evidence(candidate, Scope(), silent).file.violations]
        assert wheres.count("conform.contract.digest") == faults


def test_a_contract_that_cannot_be_loaded_is_refused_also_without_a_checkpoint(alone, registry):
    with pytest.raises(ContractError, match="nowhere"):
        open_candidate(alone, LAUNCHER, registry, contract="nowhere.toml")


def test_without_either_the_file_is_judged_by_the_contract_that_it_carries(alone, registry):
    candidate = open_candidate(alone, LAUNCHER, registry)
    assert candidate.contract is None
    assert list(Evidence(candidate, Scope(), silent).file.violations) == []


def test_the_folder_of_a_run_leads_to_its_newest_checkpoint(alone, registry, micro, make_checkpoint, tmp_path):
    newest = tmp_path / "run" / "checkpoints" / "step-00000001"
    shutil.copytree(make_checkpoint(micro), newest)
    candidate = open_candidate(alone, LAUNCHER, registry, checkpoint=tmp_path / "run")
    assert candidate.source.checkpoint.path == newest
    assert candidate.contract == micro


def test_a_head_of_its_own_that_the_contract_ties_is_not_passed_over(alone, registry, micro, make_checkpoint, tmp_path):
    weights = load_file(make_checkpoint(micro) / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}, tmp_path / "untied.safetensors")
    (tmp_path / "micro.toml").write_text(dump_contract(micro))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from"):
        open_candidate(
            *(alone, LAUNCHER, registry),
            checkpoint=tmp_path / "untied.safetensors",
            contract=str(tmp_path / "micro.toml"),
        )


def test_a_checkpoint_in_place_of_a_file_is_recognised(registry, micro, make_checkpoint):
    folder = make_checkpoint(micro)
    with pytest.raises(GGUFError, match="a folder, not a GGUF file; give the file that `conform export` writes"):
        open_candidate(folder, LAUNCHER, registry)
    with pytest.raises(GGUFError, match="is a safetensors file, not a GGUF file"):
        open_candidate(folder / "model.safetensors", LAUNCHER, registry)
