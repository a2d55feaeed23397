import dataclasses
import subprocess
import sys

import pytest

from conform.contract.dump import dump_contract
from conform.contract.load import load_contract
from conform.trainer.data.manifest import manifest_digest, read_manifest
from conform.trainer.errors import ConformError, TrainError
from conform.trainer.run.folder import RunFolder
from conform.trainer.run.request import TrainRequest, load_request


@pytest.fixture
def contract(tmp_path, built_data):
    """The path of nano with the vocabulary of the data."""
    nano = load_contract("nano")
    fitting = dataclasses.replace(nano, model=dataclasses.replace(nano.model, vocab=read_manifest(built_data).vocab))
    (tmp_path / "mine.toml").write_text(dump_contract(fitting))
    return tmp_path / "mine.toml"


@pytest.fixture
def new(tmp_path, built_data, contract):
    return TrainRequest(tmp_path / "run", False, str(contract), built_data, None, {"steps": 3, "lr": 1e-2})


@pytest.fixture
def begun(new):
    """The request to go on with a run that has begun."""
    folder = RunFolder(new.out)
    folder.create(load_request(new).record)
    folder.unlock()
    return TrainRequest(new.out, True, None, None, None, {})


def test_a_new_run_has_everything_that_was_named(new, contract, built_data):
    loaded = load_request(new)
    assert loaded.before is None
    assert loaded.record.contract == load_contract(str(contract))
    assert loaded.record.data_digest == manifest_digest(built_data)
    assert loaded.record.tokenizer == (built_data / "tokenizer.model").read_bytes()
    assert (loaded.settings.steps, loaded.settings.lr) == (3, 1e-2)


def test_a_resumed_run_has_the_record_that_it_began_with(new, begun):
    loaded = load_request(begun)
    assert loaded.record == loaded.before
    assert loaded.record.contract == load_request(new).record.contract


def test_a_resumed_run_may_become_longer_and_nothing_else(begun):
    loaded = load_request(dataclasses.replace(begun, values={"steps": 5, "lr": 1e-2}))
    assert loaded.settings.steps == 5
    with pytest.raises(TrainError, match=r"--lr: was 0\.01"):
        load_request(dataclasses.replace(begun, values={"lr": 2e-2}))


def test_a_restarted_process_goes_on_with_what_the_first_start_began(new, begun, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    loaded = load_request(new)
    assert loaded.before is not None
    assert loaded.record == loaded.before


def test_a_process_restarted_before_there_was_a_run_begins_one(new, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert load_request(new).before is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"contract": None}, "--contract and --data are needed"),
        ({"data": None}, "--contract and --data are needed"),
        ({"contract": "no-such"}, "no such contract"),
        ({"config": "no-such"}, "no such config"),
        ({"values": {"lr": -1.0}}, r"lr = -1\.0: expected more than 0"),
        ({"contract": "nano"}, "train the tokenizer with --vocab 2048"),
        ({"resume": True}, "holds no run"),
    ],
)
def test_what_cannot_begin_is_refused_in_one_sentence(new, change, sentence):
    with pytest.raises(ConformError, match=sentence):
        load_request(dataclasses.replace(new, **change))
    assert not new.out.exists()


def test_weights_that_are_ternary_already_cannot_be_trained(new, tmp_path):
    nano = load_contract("nano")
    stored = dataclasses.replace(nano, model=dataclasses.replace(nano.model, linear="ternary-stored"))
    (tmp_path / "stored.toml").write_text(dump_contract(stored))
    with pytest.raises(TrainError, match='"ternary-stored" holds no latent weights'):
        load_request(dataclasses.replace(new, contract=str(tmp_path / "stored.toml")))


def test_no_request_imports_torch():
    program = "import sys; import conform.trainer.run.request; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
