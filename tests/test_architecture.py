"""Imports point one way: contract <- core <- plugins <- parity, and trainer beside them; see docs/architecture.md.

Modules that are named as strings, by the root command group and by the list of built-in plugins, are not imports.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "contract": {"contract"},
    "core": {"contract", "core"},
    "plugins": {"contract", "core", "plugins"},
    "parity": {"contract", "core", "plugins", "parity"},
    "trainer": {"contract", "core", "trainer"},
}
# The one exception: the trainer's judge measures, during a run, what the quantizers of plugins would cost it.
COMPOSERS = {"trainer/run/judge.py"}


def modules():
    for folder in MAY_IMPORT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            # Every command lives in a `cli/` folder, where it composes what all the others offer.
            if "cli" not in path.parts and "template" not in path.parts and relative not in COMPOSERS:
                yield pytest.param(folder, path, id=relative)


def imported_folders(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("conform."))


@pytest.mark.parametrize(("folder", "path"), list(modules()))
def test_imports_point_one_way(folder, path):
    assert set(imported_folders(path)) <= MAY_IMPORT[folder]


def test_every_exception_is_still_needed():
    for composer in COMPOSERS:
        folder = composer.split("/")[0]
        assert not set(imported_folders(ROOT / composer)) <= MAY_IMPORT[folder]


@pytest.mark.parametrize(("folder", "path"), list(modules()))
def test_public_names_are_listed(folder, path):
    tree = ast.parse(path.read_text())
    assigned = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    assert "__all__" in assigned or not any(isinstance(n, ast.ClassDef | ast.FunctionDef) for n in tree.body)
