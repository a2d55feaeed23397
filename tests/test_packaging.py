"""What an unlisted folder would break: an editable install that works beside a wheel that does not."""

import tomllib
from pathlib import Path

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
    assert ours == {*FOLDERS, "tests", "docs", "bench", "demo", "torture"}
