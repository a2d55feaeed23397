import os
import stat

import pytest

from conform.core.files.atomic import staged, write_atomically


def test_the_file_is_replaced(tmp_path):
    for content in (b"one", b"", b"three"):
        write_atomically(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, step):
    write_atomically(tmp_path / "a", b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / ".a.0123456789ab.part").write_bytes(b"of a dead writer")
    (tmp_path / ".other.0123456789ab.part").write_bytes(b"of another file")
    write_atomically(tmp_path / "a", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123456789ab.part", "a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with staged(tmp_path / "a", b"first") as part:
        write_atomically(tmp_path / "a", b"second")
        assert part.read_bytes() == b"first"
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_exception_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a", b"new"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_permissions_are_the_ordinary_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_hard_link_is_not_written_through(tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    for name in ("a", ".a.part", ".a.0123456789ab.part"):
        os.link(tmp_path / "kept", tmp_path / name)
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "kept").read_bytes() == b"kept"


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_in_the_place_of_the_file_is_refused_and_stays(tmp_path, link):
    os.mkfifo(tmp_path / "pipe")
    target = tmp_path / ("a" if link else "pipe")
    if link:
        target.symlink_to("pipe")
    with pytest.raises(OSError, match="a pipe stands in the place of this file"):
        write_atomically(target, b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == sorted({"pipe", target.name})


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomically(tmp_path / "a", b"content")
    assert events == ["file", "rename", "folder"]
