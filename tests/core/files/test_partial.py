import errno
import os
import shutil
from collections import namedtuple

import pytest

from conform.core.errors import ExportError
from conform.core.files.partial import PartialFile


def test_a_file_appears_only_when_published(tmp_path):
    target = tmp_path / "new" / "x.gguf"
    with PartialFile(target, 8) as file:
        file.write(4, b"5678")
        file.write(0, b"1234")
        file.sync()
        assert not target.exists()
        file.publish()
    assert target.read_bytes() == b"12345678"
    assert os.listdir(target.parent) == ["x.gguf"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_behind_after_an_exception(tmp_path, error):
    target = tmp_path / "x.gguf"
    target.write_bytes(b"old")
    with pytest.raises(error), PartialFile(target, 8):
        raise error
    assert os.listdir(tmp_path) == ["x.gguf"]
    assert target.read_bytes() == b"old"


def test_what_a_killed_export_left_is_overwritten(tmp_path):
    (tmp_path / ".x.gguf.partial").write_bytes(b"x" * 100)
    with PartialFile(tmp_path / "x.gguf", 8) as file:
        file.publish()
    assert (tmp_path / "x.gguf").read_bytes() == bytes(8)


def test_two_exports_do_not_write_one_file(tmp_path):
    with PartialFile(tmp_path / "x.gguf", 8) as first:
        with pytest.raises(ExportError, match="another export is writing"), PartialFile(tmp_path / "x.gguf", 8):
            pass
        first.write(0, b"12345678")
        first.publish()
    assert (tmp_path / "x.gguf").read_bytes() == b"12345678"


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 93, 7))
    with pytest.raises(ExportError, match="needs 8 bytes, but only 7 are free"), PartialFile(tmp_path / "x.gguf", 8):
        pass
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    no_space = pytest.raises(ExportError, match="No space left on device; free some space")
    with no_space, PartialFile(tmp_path / "x.gguf", 8) as file:
        file.write(0, b"12345678")
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:3], offset))
    with PartialFile(tmp_path / "x.gguf", 8) as file:
        file.write(0, b"12345678")
        file.publish()
    assert (tmp_path / "x.gguf").read_bytes() == b"12345678"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="cannot be written"), PartialFile(tmp_path / "file" / "x.gguf", 8):
        pass


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / ".x.gguf.partial").symlink_to(precious)
    with pytest.raises(ExportError, match="cannot be written"), PartialFile(tmp_path / "x.gguf", 8):
        pass
    assert precious.read_bytes() == b"precious"


def test_a_hard_link_in_the_place_of_the_partial_file_is_not_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    os.link(precious, tmp_path / ".x.gguf.partial")
    with PartialFile(tmp_path / "x.gguf", 8, resumable=True) as file:
        assert not file.found
        file.write(0, b"12345678")
        file.publish()
    assert precious.read_bytes() == b"precious"
    assert (tmp_path / "x.gguf").read_bytes() == b"12345678"


@pytest.mark.parametrize("name", ["x.gguf", ".x.gguf.partial"])
def test_a_pipe_is_refused_and_stays(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused = pytest.raises(ExportError, match="cannot be written: a pipe stands in the place")
    with refused, PartialFile(tmp_path / "x.gguf", 8):
        pass
    assert (tmp_path / name).is_fifo()
