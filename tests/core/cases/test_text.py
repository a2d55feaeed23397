"""Hostile texts are files: the path is the id, and dropping a file in makes a case."""

import json
import tomllib
import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest

from conform.core.cases.text import TEXTS, hostile_texts
from conform.core.errors import ConformError

ROOT = Path(__file__).parents[3]
FILES = {path.relative_to(TEXTS).as_posix(): path for path in sorted(TEXTS.rglob("*")) if path.is_file()}


def test_a_new_file_is_a_new_case(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "020-later.json").write_text('"\\u200b"\n')
    (tmp_path / "prompts" / "010-first.json").write_text('" a "\n')
    found = hostile_texts("prompts", tmp_path)
    assert list(found.items()) == [("prompts/010-first", " a "), ("prompts/020-later", "\u200b")]


@pytest.mark.parametrize("content", [b"", b"no quotes", b"\xff", b'["a list"]', b"null", b'"two" "strings"'])
def test_a_file_that_holds_no_string_is_named(tmp_path, content):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "010-wrong.json").write_bytes(content)
    with pytest.raises(ConformError, match=r"010-wrong\.json: "):
        hostile_texts("prompts", tmp_path)


def test_a_collection_without_texts_is_an_error(tmp_path):
    with pytest.raises(ConformError, match="no hostile texts"):
        hostile_texts("prompts", tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_nothing_that_an_editor_would_change(name):
    content = FILES[name].read_text(encoding="utf-8")
    line = content.removesuffix("\n")
    assert content == line + "\n"
    assert line.isprintable()
    assert unicodedata.is_normalized("NFC", line)
    assert json.loads(line).encode("utf-8").decode("utf-8") == json.loads(line)


def test_every_file_is_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["conform.core.cases"] for path in TEXTS.parent.glob(pattern)}
    assert set(FILES.values()) < shipped


@pytest.mark.parametrize(
    ("collection", "count", "digest"), [("prompts", 27, "1da06cf93b403c8c"), ("tokenizer", 32, "83800d8606a8a136")]
)
def test_the_texts_that_verdicts_are_bound_to_stay(collection, count, digest):
    """New cases come after them."""
    texts = list(hostile_texts(collection).values())[:count]
    assert sha256(json.dumps(texts).encode()).hexdigest()[:16] == digest
