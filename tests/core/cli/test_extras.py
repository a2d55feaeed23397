"""What the wheel does where only some of its extras are installed: environments of their own, nothing patched."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conform.core.cli.extras import EXTRAS, missing_extra

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def test_every_module_names_an_extra_that_brings_it():
    for module, extra in EXTRAS.items():
        assert any(module in requirement for requirement in PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize("error", [ModuleNotFoundError("no name"), ImportError("no", name="torch"), KeyError("torch")])
def test_only_a_missing_module_is_a_missing_extra(error):
    assert missing_extra(error) == ""


def test_a_missing_submodule_is_a_missing_extra():
    assert "pip install 'gguf-conform[data]'" in missing_extra(ModuleNotFoundError("x", name="pyarrow.parquet"))


def required(names):
    """The installed distributions that these requirements bring with them."""
    found, wanted = {}, list(names)
    while wanted:
        requirement = Requirement(wanted.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(name)
        wanted += found[name].requires or []
    return found.values()


def environment(folder, wheel, *extras):
    """A virtual environment that holds the wheel and what it and these extras require; its command `conform`.

    What is required is linked from this environment; the wheel is installed by pip.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    for distribution in required(name for group in groups for name in group):
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, capture_output=True)
    return folder / "bin/conform"


def run(command, *arguments):
    """(exit status, stdout, stderr); no Go and nothing of this environment is on PATH."""
    scrubbed = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    scrubbed |= {"PATH": "/nonexistent", "XDG_CACHE_HOME": str(command.parent)}
    words = [str(command), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=scrubbed, cwd=command.parent)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="session")
def bare(wheel_file, tmp_path_factory):
    """`conform` where no extra is installed."""
    return environment(tmp_path_factory.mktemp("bare") / "venv", wheel_file)


@pytest.fixture(scope="session")
def with_torch(wheel_file, tmp_path_factory):
    """`conform` where only the extra `torch` is installed."""
    return environment(tmp_path_factory.mktemp("torch") / "venv", wheel_file, "torch")


@pytest.fixture(scope="session")
def work(bare, micro, micro_ternary, make_checkpoint, tmp_path_factory):
    """A folder with a checkpoint, its contract, text in every format, and what the commands themselves make of it."""
    from conform.contract.dump import dump_contract

    folder = tmp_path_factory.mktemp("work")
    make_checkpoint(folder / "dense", micro)
    make_checkpoint(folder / "ternary", micro_ternary)
    (folder / "micro.toml").write_text(dump_contract(micro))
    (folder / "text.jsonl").write_text("".join(f'{{"text": "abc def ghi jab cde {n}"}}\n' for n in range(400)))
    (folder / "text.parquet").write_bytes(b"PAR1 and more")
    (folder / "text.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd and more")
    status, _, error = run(bare, *data_build(folder, "text.jsonl", "shards"))
    assert status == 0, error
    status, _, error = run(bare, "export", folder / "ternary", "--quant", "i2_s", "-o", folder / "i2_s.gguf")
    assert status == 0, error
    return folder


def data_build(folder, source, out):
    return ("data", "build", "--input", folder / source, "--tokenizer", folder / "dense", "-o", folder / out)


def training(folder, out):
    paths = ("--contract", folder / "micro.toml", "--data", folder / "shards", "--out", folder / out)
    return ("train", *paths, "--steps", 1, "--batch", 1, "--sequence", 16, "--dtype", "f32")


def test_a_bare_environment_has_no_module_of_an_extra(bare):
    code = f"import importlib.util; print([name for name in {list(EXTRAS)} if importlib.util.find_spec(name)])"
    done = subprocess.run([bare.with_name("python"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


RANGES = ("--layers", "24:28", "--hidden", "2048:2560", "--heads", "16:20", "--kv-heads", "4:8")

NEED_NOTHING = {
    "contract list": lambda w: ("contract", "list"),
    "contract show": lambda w: ("contract", "show", "nano"),
    "contract solve": lambda w: ("contract", "solve", "--params", "1.5e9", *RANGES, "--ffn-multiple-of", "256"),
    "contract check": lambda w: ("contract", "check", w / "dense"),
    "contract diff": lambda w: ("contract", "diff", "nano", "nano"),
    "tokenizer train": lambda w: (
        "tokenizer",
        "train",
        "--input",
        w / "text.jsonl",
        "--vocab",
        290,
        "-o",
        w / "pieces",
    ),
    "tokenizer check": lambda w: ("tokenizer", "check", w / "dense/tokenizer.model"),
    "data build": lambda w: data_build(w, "text.jsonl", "again"),
    "data verify": lambda w: ("data", "verify", w / "shards"),
    "data show": lambda w: ("data", "show", w / "shards"),
    "export": lambda w: ("export", w / "dense", "--quant", "f16", "-o", w / "f16.gguf"),
    "verify": lambda w: ("verify", w / "i2_s.gguf"),
    "repack": lambda w: ("repack", w / "i2_s.gguf", "--layout", "arm", "-o", w / "arm.gguf"),
    "plugins": lambda w: ("plugins", "--json"),
    "plugins new": lambda w: ("plugins", "new", "mine", "--in", w),
}

NEED = {
    "train": ("torch", lambda w: training(w, "run")),
    "train report": ("torch", lambda w: ("train", "report", w / "run")),
    "train plan": ("torch", lambda w: ("train", "plan", "--contract", "nano")),
    # With a program of its own, so that goref need not be built first, which takes the extra go.
    "parity": ("torch", lambda w: ("parity", w / "i2_s.gguf", "--checkpoint", w / "ternary", "--go-bin", "/bin/sh")),
    "imatrix": ("torch", lambda w: ("imatrix", w / "dense", "--data", w / "shards", "-o", w / "imatrix.gguf")),
    "export --imatrix": ("", lambda w: ("export", w / "dense", "--quant", "f16", "--imatrix", w / "none")),
    "data build .parquet": ("data", lambda w: data_build(w, "text.parquet", "parquet")),
    "data build .zst": ("data", lambda w: data_build(w, "text.txt.zst", "zst")),
    "plugins certify": ("kit", lambda w: ("plugins", "certify", "f16")),
}


@pytest.mark.parametrize("command", NEED_NOTHING)
def test_what_needs_no_extra_works_without_any(bare, work, command):
    status, out, error = run(bare, *NEED_NOTHING[command](work))
    assert status == 0, out + error


@pytest.mark.parametrize("command", NEED)
def test_a_missing_extra_is_one_sentence_with_the_command_to_type(bare, work, command):
    extra, arguments = NEED[command]
    status, out, error = run(bare, *arguments(work))
    assert (status, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert error.endswith(f", which is not installed: pip install 'gguf-conform[{extra}]'\n" if extra else "\n")


def test_a_missing_extra_is_found_where_another_one_is_installed(with_torch, work):
    status, _, error = run(with_torch, *training(work, "events"), "--tensorboard")
    assert (status, error.splitlines()[-1].partition(": ")[2].partition(",")[0]) == (2, "this needs tensorboard"), error
    assert run(with_torch, *training(work, "run"))[0] == 0
    status, out, error = run(with_torch, "train", "report", work / "run")
    assert (status, out) == (2, "")
    assert error == "conform: this needs matplotlib, which is not installed: pip install 'gguf-conform[report]'\n"


def test_without_go_the_command_to_type_is_said(with_torch, work):
    status, out, error = run(with_torch, "parity", work / "i2_s.gguf", "--checkpoint", work / "ternary")
    assert (status, out) == (2, "")
    assert "pip install 'gguf-conform[go]'" in error
    assert len(error.splitlines()) == 1
