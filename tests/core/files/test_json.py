import pytest

from conform.core.errors import InputError
from conform.core.files.json import read_json_object


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"key": [1, 2.5]}')
    assert read_json_object(tmp_path / "a.json", "a receipt") == {"key": [1, 2.5]}


def test_whole_surrogate_pairs_are_text(tmp_path):
    (tmp_path / "a.json").write_text(r'{"key": "\ud83d\udc26"}')
    assert read_json_object(tmp_path / "a.json", "a receipt") == {"key": "\U0001f426"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a receipt: not JSON"),
        (b"{", "not a receipt: not JSON"),
        (b"\xff\xfe", "not a receipt: not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not a receipt; .*`git lfs pull`"),
        (b"<!DOCTYPE html>", "is a web page, not a receipt; a server may have sent it"),
        (b"[" * 100_000, "not a receipt: not JSON"),
        (b'{"n": ' + b"1" * 5000 + b"}", "not a receipt: not JSON"),
        (b'{"n": NaN}', "not a receipt: not JSON: NaN is not a number"),
        (b'{"n": [-Infinity]}', "not a receipt: not JSON: -Infinity is not a number"),
        (b'{"a": {"n": 1, "n": 1}}', "not a receipt: not JSON: 'n' occurs twice"),
        (rb'{"a": "\ud800"}', "not a receipt: not JSON: half of a surrogate pair"),
        (rb'{"\uDFFF\ud800": 1}', "not a receipt: not JSON: half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "not a receipt: not JSON: more than 64 objects and lists"),
        (b"[1]", "not a receipt: expected a JSON object, found list"),
        (b" " * 10_001, "larger than 10000 bytes; expected a receipt"),
    ],
    ids=[
        "empty",
        "cut",
        "not UTF-8",
        "pointer",
        "web page",
        "deep",
        "long number",
        "NaN",
        "infinity",
        "twice",
        "half a pair",
        "halves in a name",
        "nested",
        "list",
        "large",
    ],
)
def test_anything_else_is_refused_with_advice(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    largest = 10_000 if "larger" in message else 1 << 20
    with pytest.raises(InputError, match=rf"a\.json: {message}.*; build it again$"):
        read_json_object(tmp_path / "a.json", "a receipt", largest=largest, advice="build it again")
