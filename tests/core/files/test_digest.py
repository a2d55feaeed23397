import hashlib
import io

import pytest

from conform.core.errors import InputError
from conform.core.files.digest import file_sha256, hash_rest


def test_files_are_hashed_in_steps(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (9 << 20))
    steps = []
    assert file_sha256(path, steps.append) == hashlib.sha256(b"x" * (9 << 20)).hexdigest()
    assert steps == [8 << 20, 1 << 20]


def test_an_open_file_is_hashed_from_where_it_stands():
    file = io.BytesIO(b"head and rest")
    file.seek(4)
    digest = hash_rest(file)
    digest.update(b", and more")
    assert digest.hexdigest() == hashlib.sha256(b" and rest, and more").hexdigest()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="gone: cannot be read: No such file"):
        file_sha256(tmp_path / "gone")
