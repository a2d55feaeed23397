"""What an unlisted folder would break: an editable install that works beside a wheel that does not."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("contract", "core", "parity", "plugins", "trainer")


def test_every_package_is_listed_and_every_listed_package_exists():
    found = {
        "conform." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
        if "template" not in init.parts
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_dependency_is_pinned():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    groups = PROJECT["project"]["optional-dependencies"]
    required = PROJECT["project"]["dependencies"] + [d for name in groups if name != "bench" for d in groups[name]]
    assert {dependency.split(">=")[0].lower() for dependency in required} <= pinned


def test_the_top_level_is_the_architecture():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    ours = folders - {"runs", "build", "dist", "gguf_conform.egg-info"}
    assert ours == {*FOLDERS, "tests", "docs", "bench", "demo", "examples", "torture"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of all files in the wheel, built from a copy so that no build folder is left here."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(source / "dist"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.installs
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert wheel == {
        f"conform/{path.relative_to(ROOT).as_posix()}" for path in paths if "__pycache__" not in path.parts
    }


@pytest.mark.installs
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_wheel_says_that_its_packages_are_typed(wheel, folder):
    assert f"conform/{folder}/py.typed" in wheel
