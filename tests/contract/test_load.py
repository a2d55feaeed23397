from pathlib import Path

import pytest

from conform.contract.dump import dump_contract
from conform.contract.errors import ContractError, InputError
from conform.contract.load import load_contract, shipped_contracts


@pytest.fixture
def spec(tmp_path):
    """A spec file of the user's own, and a way to spoil it."""
    path = tmp_path / "mine.toml"
    text = dump_contract(load_contract("nano"))

    def write(old: str = "", new: str = "") -> Path:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return path

    return write


def test_a_spec_file_is_accepted_by_path(spec):
    assert load_contract(str(spec())).digest == load_contract("nano").digest


def test_a_variant_of_a_spec_file_is_accepted(spec):
    assert load_contract(f"{spec()}+ternary").digest == load_contract("nano+ternary").digest


@pytest.mark.parametrize("name", [*shipped_contracts(), "nano+bitnet"])
def test_dump_and_load_are_inverse(name, tmp_path):
    contract = load_contract(name)
    (tmp_path / "copy.toml").write_text(dump_contract(contract))
    assert load_contract(str(tmp_path / "copy.toml")) == contract


def test_a_whole_number_is_accepted_where_a_float_is_meant(spec):
    assert load_contract(str(spec("rope_base = 10000.0", "rope_base = 10000"))) == load_contract("nano")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers = 2\n", "", "missing model.layers"),
        ('name = "nano"', r'name = "\u001b[2Jnano"', "name = .*expected printable characters only"),
        ("layers = 2\n", "layers = 2\nlayer = 2\n", "unknown key model.layer"),
        ("layers = 2", 'layers = "2"', "model.layers = '2': expected a value of type int"),
        ("layers = 2", "layers = true", "model.layers = True"),
        ("layers = 2", "layers = 2.0", "model.layers"),
        ("layers = 2", "layers = -2", "model.layers = -2"),
        ('architecture = "llama"', 'architecture = "gpt2"', "model.architecture"),
        ("[model]", "[[model]]", "model: expected a table"),
        ("[model]", "[model", "not a TOML file"),
        ("rope_base = 10000.0", "rope_base = nan", "rope_base"),
        ("rope_base = 10000.0", f"rope_base = 1{'0' * 400}", "rope_base = 1000.*fits into a float"),
        ("layers = 2", f"layers = 1{'0' * 5000}", "not a TOML file"),
        ("layers = 2", f"layers = {'[' * 100_000}", "not a TOML file"),
    ],
)
def test_an_error_names_file_and_key(spec, old, new, message):
    with pytest.raises(InputError, match=message) as error:
        load_contract(str(spec(old, new)))
    assert "mine.toml" in str(error.value)


def test_an_unknown_contract_lists_what_exists():
    with pytest.raises(ContractError, match=r"base-1\.5b.*nano"):
        load_contract("nanoo")


def test_an_unknown_variant_lists_what_exists():
    with pytest.raises(ContractError, match="ternary, bitnet"):
        load_contract("nano+quaternary")


def test_a_huge_file_is_refused(tmp_path):
    (tmp_path / "huge.toml").write_text("#" * (1 << 21))
    with pytest.raises(InputError, match="larger than 1048576 bytes; expected a contract"):
        load_contract(str(tmp_path / "huge.toml"))
