import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.contract.errors import InputError
from conform.contract.toml import parse_toml, read_toml, toml_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TABLES = st.dictionaries(TEXTS, SCALARS, max_size=4)
DOCUMENTS = st.dictionaries(TEXTS, SCALARS | TABLES | st.lists(TABLES, min_size=1, max_size=3), max_size=5)


@given(DOCUMENTS)
def test_what_is_written_reads_back(values):
    assert tomllib.loads(toml_text(values)) == values


def test_tables_follow_the_values_and_hold_their_own_tables():
    values = {"table": {"rows": [{"a": 1}, {"a": 2}], "b": 1.0}, "first": "x"}
    text = 'first = "x"\n\n[table]\nb = 1.0\n\n[[table.rows]]\na = 1\n\n[[table.rows]]\na = 2\n'
    assert toml_text(values) == text
    assert toml_text({"table": {"a": True}}) == "[table]\na = true\n"


def test_floats_that_json_cannot_spell_read_back():
    values = tomllib.loads(toml_text({"a": math.inf, "b": -math.inf, "c": math.nan}))
    assert (values["a"], values["b"], math.isnan(values["c"])) == (math.inf, -math.inf, True)


@pytest.mark.parametrize("content", [b"a = ", b"\xff", b"a = " + b"1" * 5000, b"a = " + b"[" * 100_000], ids=range(4))
def test_what_is_not_toml_is_refused(content):
    with pytest.raises(InputError, match=r"^here\.toml: not a TOML file: "):
        parse_toml(content, "here.toml")


def test_a_large_file_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("#" * (1 << 21))
    with pytest.raises(InputError, match="larger than 1048576 bytes; expected a menu"):
        read_toml(tmp_path / "a.toml", "a menu")
