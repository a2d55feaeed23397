import os
import socket
import tracemalloc

import pytest

from conform.contract.bounded import open_regular, read_bounded
from conform.contract.errors import InputError


def test_a_file_of_the_largest_size_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert read_bounded(tmp_path / "a", 4, "a number") == b"1234"


def test_a_larger_file_is_refused_unread(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"a: larger than 4 bytes; expected a number$"):
        read_bounded(tmp_path / "a", 4, "a number")


def test_a_small_file_needs_little_memory_whatever_is_allowed(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    tracemalloc.start()
    assert read_bounded(tmp_path / "a", 1 << 30, "a number") == b"1234"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_name_that_no_file_can_have_is_an_error_of_reading(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: a file name holds no NUL character$"):
        read_bounded(tmp_path / "a\0b", 4, "a number")


def test_a_file_without_a_size_is_bounded_all_the_same():
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("no /proc on this platform")
    with pytest.raises(InputError, match="larger than 16 bytes"):
        read_bounded(os.path.realpath("/proc/self/maps"), 16, "a number")


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot be read: a pipe, not a regular file; write a file$"):
        read_bounded(tmp_path / "pipe", 4, "a number", advice="write a file")


def test_a_link_to_a_device_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"link: cannot be read: a device, not a regular file$"):
        read_bounded(tmp_path / "link", 4, "a number")


@pytest.mark.parametrize(
    ("name", "message"), [("", "Is a directory"), ("gone", "No such file"), ("a" * 5000, "name too long")]
)
def test_what_cannot_be_opened_is_named(tmp_path, name, message):
    with pytest.raises(InputError, match=f"cannot be read: .*{message}"):
        read_bounded(tmp_path / name, 4, "a number")


def test_a_socket_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match="socket: cannot be read"):
            read_bounded(tmp_path / "socket", 4, "a number")


def test_a_disk_that_fails_meanwhile_is_the_same_error(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    with pytest.raises(InputError, match="a: cannot be read: Input/output error"), open_regular(tmp_path / "a"):
        raise OSError(5, "Input/output error")
