"""Distributions that are really installed: a module and a .dist-info with an entry point, on sys.path."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PREAMBLE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.plugins import Layout, hookimpl

CONFORM_PLUGIN_API = 1


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"
    layout: ClassVar[Layout] = Layout(4242, 1)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape):
        return int(np.prod(shape)) * 4

    def quantize(self, values, importance=None):
        return values.reshape(-1).view(np.uint8).copy()

    def dequantize(self, packed, shape):
        return packed.view(np.float32).reshape(shape).copy()

"""

PLAIN = (
    PREAMBLE
    + """
@hookimpl
def conform_quantizers():
    return [Plain()]
"""
)


@dataclass
class SitePackages:
    """A folder on sys.path into which distributions can be put."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def install(self, distribution, source, version="1.0", entry="main", module=None, target=None):
        """The distribution with one module; `module` differs from test to test, since imports are cached."""
        module = module or f"{distribution.replace('-', '_')}_{self.folder.parent.name.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        entries = info / "entry_points.txt"
        head = entries.read_text() if entries.exists() else "[conform]\n"
        entries.write_text(f"{head}{entry} = {target or module}\n")
        self.monkeypatch.delitem(sys.modules, module, raising=False)
        return module


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return SitePackages(folder, monkeypatch)


@pytest.fixture
def plain_source():
    """A module that offers the quantizer `plain`."""
    return PLAIN
