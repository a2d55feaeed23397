import os
import shutil
import sys
from pathlib import Path

import pytest

from conform.core.errors import ConformError
from conform.parity import custody as module
from conform.parity.custody import Custody

ELF = b"\x7fELF" + bytes(60)


@pytest.fixture
def custody():
    with Custody() as opened:
        yield opened


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "bitnet"
    path.write_bytes(ELF)
    path.chmod(0o755)
    return path


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def found(custody):
    return [(finding.where, finding.found) for finding in custody.findings()]


def test_what_is_left_alone_has_no_findings(custody, program, model):
    custody.keep_program(program)
    custody.keep_file(model)
    assert custody.findings() == []


def test_what_still_runs_ends_before_its_folder_goes():
    ended = []
    with Custody() as custody:
        custody.at_end(lambda: ended.append(custody.folder.is_dir()))
    assert ended == [True]
    assert not custody.folder.exists()


def test_copies_are_private_and_read_only(custody, program, model):
    kept = [custody.keep_program(program), custody.keep_file(model)]
    assert all(one.copied and one.path != one.original for one in kept)
    assert [one.path.stat().st_mode & 0o777 for one in kept] == [0o555, 0o444]
    assert kept[0].path.parents[1].stat().st_mode & 0o777 == 0o700


def test_a_copy_does_not_follow_its_original(custody, model):
    kept = custody.keep_file(model)
    before = kept.path.read_bytes()
    model.write_bytes(b"other")
    assert kept.path.read_bytes() == before
    assert custody.findings() == []


def test_companions_lie_beside_the_program(custody, program, tmp_path):
    companion = shutil.copy(program, tmp_path / "tokenize")
    kept = custody.keep_program(program, [companion])
    assert (kept.path.parent / "tokenize").is_file()
    assert len(custody.kept) == 2


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", ELF + b"$ORIGIN/lib"], ids=["script", "libraries beside it"])
def test_a_program_that_may_need_its_neighbours_stays_where_it_is(custody, program, content):
    program.write_bytes(content)
    kept = custody.keep_program(program)
    assert (kept.path, kept.copied) == (program, False)


def test_a_file_that_is_too_large_stays_where_it_is(custody, model, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_COPY", 50)
    assert custody.keep_file(model).path == model


def rewrite(path):
    path.chmod(0o644)
    path.write_bytes(b"other")


def rewrite_and_put_back(path):
    content = path.read_bytes()
    rewrite(path)
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def move_and_put_back(path):
    moved = path.with_name("moved")
    path.rename(moved)
    moved.rename(path)


def replace_by_an_equal_one(path):
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
@pytest.mark.parametrize(
    "change", [Path.unlink, rewrite, rewrite_and_put_back, move_and_put_back, replace_by_an_equal_one]
)
def test_any_change_is_found(custody, model, change, in_place, monkeypatch):
    if in_place:
        monkeypatch.setattr(module, "_LARGEST_COPY", 50)
    change(custody.keep_file(model).path)
    assert [where for where, _ in found(custody)] == ["model.gguf"]


def test_what_lies_in_the_working_folder_is_found(custody):
    (custody.folder / "core\x1b[2J").write_text("left")
    assert found(custody) == [("working folder", "1 entries: 'core\\x1b[2J'")]


def test_a_removed_working_folder_is_found(custody):
    custody.folder.rmdir()
    assert found(custody) == [("working folder", "no folder")]


def test_nothing_is_left_behind(program):
    with Custody() as opened:
        copy = opened.keep_program(program).path
        (opened.folder / "left").write_text("behind")
    assert not copy.exists()
    assert not opened.folder.exists()


def test_a_missing_file_is_one_sentence(custody, tmp_path):
    with pytest.raises(ConformError, match="cannot be read"):
        custody.keep_file(tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_special_file_is_one_sentence(custody, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConformError, match="not a regular file"):
        custody.keep_file(tmp_path / "pipe")
