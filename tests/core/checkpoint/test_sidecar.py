import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conform.core.checkpoint.sidecar import Sidecar, listed_path, read_sidecar, write_sidecar
from conform.core.errors import CheckpointError, InputError


@pytest.fixture
def sidecar(micro):
    return Sidecar(
        contract=micro,
        contract_digest=micro.digest,
        files={"model.safetensors": "0" * 64},
        tokenizer_digest="1" * 64,
        data_digest="2" * 64,
        step=300,
        tokens=1_228_800,
        held_out={"loss": 3.25, "perplexity": 25.8},
        trainer={"version": "0.1.0", "config": {"seed": 1}},
    )


def test_what_is_written_is_read_back(tmp_path, sidecar):
    write_sidecar(tmp_path, sidecar)
    assert read_sidecar(tmp_path) == sidecar
    assert [path.name for path in tmp_path.iterdir()] == ["conform.json"]


def test_only_contract_and_files_are_required(tmp_path, micro):
    least = Sidecar(micro, micro.digest, {"model.safetensors": "0" * 64})
    write_sidecar(tmp_path, least)
    assert read_sidecar(tmp_path) == least
    assert set(json.loads((tmp_path / "conform.json").read_text())) == {
        "format",
        "contract",
        "contract_digest",
        "files",
    }


def test_no_sidecar_is_none(tmp_path):
    assert read_sidecar(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "this version reads format 1"),
        ({"contract": None}, "contract: expected a table, found NoneType"),
        ({"contract": {"name": "x"}}, "missing contract.why"),
        ({"contract_digest": "0" * 64}, "edited or damaged"),
        ({"contract_digest": "x" * 100_000}, r"x'?: expected a sha256 in hexadecimal$"),
        ({"files": {"a": "short"}}, "expected a sha256"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "outside the checkpoint"),
        ({"files": {"/etc/passwd": "0" * 64}}, "outside the checkpoint"),
        ({"files": {"a\0": "0" * 64}}, "outside the checkpoint"),
        ({"files": {}}, "files is empty; expected the sha256 of every file"),
        ({"files": ["a"]}, "files: expected a table, found list"),
        ({"step": "300"}, "step = '300': expected a value of type int"),
        ({"step": True}, "step = True: expected a value of type int"),
        ({"tokens": 1.5}, "tokens = 1.5: expected a value of type int"),
        ({"held_out": 3.2}, "held_out: expected a table, found float"),
    ],
)
def test_a_malformed_sidecar_is_refused(tmp_path, sidecar, change, message):
    write_sidecar(tmp_path, sidecar)
    path = tmp_path / "conform.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as error:
        read_sidecar(tmp_path)
    assert "conform.json" in str(error.value)


@pytest.mark.parametrize("key", ["contract", "contract_digest", "files"])
def test_a_missing_key_is_named(tmp_path, sidecar, key):
    write_sidecar(tmp_path, sidecar)
    path = tmp_path / "conform.json"
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"missing {key}"):
        read_sidecar(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_what_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "conform.json").write_bytes(content)
    with pytest.raises(InputError, match=r"conform\.json"):
        read_sidecar(tmp_path)


def test_a_changed_field_of_the_contract_breaks_its_digest(tmp_path, sidecar):
    write_sidecar(tmp_path, sidecar)
    path = tmp_path / "conform.json"
    path.write_text(path.read_text().replace('"layers": 2', '"layers": 3'))
    with pytest.raises(CheckpointError, match="edited or damaged"):
        read_sidecar(tmp_path)


def test_a_number_that_json_cannot_hold_is_named(tmp_path, sidecar):
    with pytest.raises(CheckpointError, match="cannot hold NaN or infinity, found in held_out"):
        write_sidecar(tmp_path, dataclasses.replace(sidecar, held_out={"loss": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path, sidecar):
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_sidecar(tmp_path / "nowhere", sidecar)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
PATHS = st.sampled_from(
    [("contract",), ("files",), ("files", "model.safetensors"), ("step",), ("held_out",), ("contract_digest",)]
    + [("contract", section) for section in ("name", "model", "tokenizer", "storage")]
    + [("contract", "model", field) for field in ("layers", "rope_base", "norm_eps", "architecture", "vocab")]
    + [("contract", "tokenizer", field) for field in ("unk_id", "sha256", "byte_fallback")]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, value=JSON)
def test_foreign_values_raise_nothing_but_input_errors(tmp_path, sidecar, path, value):
    write_sidecar(tmp_path, sidecar)
    file = tmp_path / "conform.json"
    data = json.loads(file.read_text())
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    file.write_text(json.dumps(data))
    try:
        read_sidecar(tmp_path)
    except InputError as error:
        assert "conform.json" in str(error)  # noqa: PT017 either outcome is right


@pytest.mark.parametrize("name", ["link", "folder/x"])
def test_a_link_does_not_lead_out_of_the_folder(tmp_path, sidecar, name):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path / "x").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "x")
    (folder / "folder").symlink_to(tmp_path)
    write_sidecar(folder, dataclasses.replace(sidecar, files={name: "0" * 64}))
    with pytest.raises(CheckpointError, match=f"files names '{name}', which lies outside the checkpoint"):
        read_sidecar(folder)


def test_a_link_may_stay_in_the_folder_and_the_folder_be_one(tmp_path, sidecar):
    folder, alias = tmp_path / "checkpoint", tmp_path / "alias"
    folder.mkdir()
    alias.symlink_to(folder)
    (folder / "model.safetensors").symlink_to("model-1.safetensors")
    write_sidecar(folder, sidecar)
    assert read_sidecar(alias) == sidecar
    assert listed_path(alias, "model.safetensors") == alias / "model.safetensors"
