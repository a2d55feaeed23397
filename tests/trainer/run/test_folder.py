import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from conform.contract.load import load_contract
from conform.core.files.atomic import write_atomically
from conform.trainer.config import TrainConfig
from conform.trainer.data.manifest import manifest_digest
from conform.trainer.errors import ConformError, InputError, TrainError
from conform.trainer.run.folder import RunFolder, RunRecord, code_digest, tokenizer_of


@pytest.fixture
def record(built_data):
    tokenizer = (built_data / "tokenizer.model").read_bytes()
    return RunRecord(load_contract("nano"), TrainConfig(steps=3), built_data, tokenizer, manifest_digest(built_data))


@pytest.fixture
def run(tmp_path, record):
    folder = RunFolder(tmp_path / "run")
    folder.create(record)
    folder.unlock()
    return folder


def test_what_was_created_reads_back_equal(run, record):
    assert dataclasses.replace(run.read(), data=record.data) == record


def test_two_runs_cannot_begin_in_one_folder(tmp_path, record):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    first.lock()
    with pytest.raises(TrainError, match="another process is training there"):
        second.create(record)
    first.unlock()
    second.create(record)
    second.unlock()


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_folder_that_was_being_created_is_gone_on_with(tmp_path, record, monkeypatch, written):
    folder, calls = RunFolder(tmp_path / "run"), []

    def killed(path, content):
        calls.append(path.name)
        if len(calls) == written:
            (path.parent / f".{path.name}.0123456789ab.part").write_bytes(content[:5])
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr("conform.trainer.run.folder.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.create(record)
    folder.unlock()
    monkeypatch.undo()
    folder.create(record)
    folder.unlock()
    assert dataclasses.replace(folder.read(), data=record.data) == record
    assert sorted(os.listdir(folder.path)) == ["checkpoints", "config.toml", "run.json", "tokenizer.model"]


@pytest.mark.parametrize("name", ["tokenizer.model", "checkpoints/step-00000004", "notes.txt"])
def test_a_folder_of_somebody_else_is_not_taken_for_one_that_was_being_created(tmp_path, record, name):
    folder = RunFolder(tmp_path / "run")
    (folder.path / name).parent.mkdir(parents=True)
    (folder.path / name).write_bytes(b"precious")
    with pytest.raises(TrainError, match="holds other files"):
        folder.create(record)
    folder.unlock()
    assert (folder.path / name).read_bytes() == b"precious"


def test_a_lock_ends_with_its_process_however_that_ends(run):
    imports = "from conform.trainer.run.folder import *; from pathlib import Path; "
    code = f"{imports}f = RunFolder(Path({str(run.path)!r})); "
    command = [sys.executable, "-c", code + "f.lock(); print('locked', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(TrainError, match="another process is training there"):
            run.lock()
        os.kill(other.pid, signal.SIGKILL)
    run.lock()
    run.unlock()


def test_a_lock_is_waited_for_when_asked(run):
    other = RunFolder(run.path)
    other.lock()
    with pytest.raises(TrainError, match="another process"):
        run.lock(patience=0.2)
    other.unlock()
    run.lock(patience=0.2)
    run.unlock()


def test_data_that_moved_are_asked_for(run, record, tmp_path):
    stored = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(stored | {"data": str(tmp_path / "gone")}))
    with pytest.raises(TrainError, match=r"gone: the run's data are no longer there; say with --data"):
        run.read()
    assert run.read(record.data).data == record.data


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"contract": []}', b"1" * 5000])
def test_a_damaged_record_is_refused_by_name(run, content):
    (run.path / "run.json").write_bytes(content)
    with pytest.raises(ConformError, match=r"run\.json: "):
        run.read_record()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", 5),
        ("data", "a\0b"),
        ("data_digest", None),
        ("contract_digest", "0"),
        ("contract", {}),
    ],
)
def test_a_changed_record_is_refused(run, key, value):
    stored = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(stored | {key: value}))
    with pytest.raises(ConformError):
        run.read()


def test_a_gigantic_record_is_not_read(run):
    with (run.path / "run.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"run\.json: larger than"):
        run.read_record()


def test_the_code_digest_sees_nested_modules(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "config.py").write_text("a = 1\n")
    (tmp_path / "run" / "loop.py").write_text("b = 1\n")
    (tmp_path / "run" / "notes.txt").write_text("not code\n")
    before = code_digest(tmp_path)
    (tmp_path / "run" / "notes.txt").write_text("changed\n")
    assert code_digest(tmp_path) == before
    (tmp_path / "run" / "loop.py").write_text("b = 2\n")
    assert code_digest(tmp_path) != before


def test_the_code_digest_sees_a_module_that_moved(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "loop.py").write_text("b = 1\n")
    before = code_digest(tmp_path)
    (tmp_path / "loop.py").rename(tmp_path / "run" / "loop.py")
    assert code_digest(tmp_path) != before


def test_a_contract_with_a_byte_level_tokenizer_is_not_trained(tmp_path):
    nano = load_contract("nano")
    contract = dataclasses.replace(
        nano, tokenizer=dataclasses.replace(nano.tokenizer, model="byte-level", pre="smollm")
    )
    with pytest.raises(TrainError, match="contract nano has a byte-level tokenizer; conform trains with SentencePiece"):
        tokenizer_of(tmp_path, contract)
