import errno
import fcntl
import sys
import threading

import pytest

from conform.core.errors import ConformError
from conform.core.files.lock import FolderLock


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    first.release()  # holds nothing any more, so it lets nobody in
    assert not FolderLock(tmp_path).acquire()


def test_patience_waits_for_the_owner_to_leave(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.acquire()
    threading.Timer(0.3, first.release).start()
    assert second.acquire(patience=30)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert FolderLock(tmp_path).acquire()
    assert FolderLock(tmp_path).acquire()


def test_a_platform_without_locks_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ConformError, match="conform runs on Linux and macOS"):
        FolderLock(tmp_path).acquire()
