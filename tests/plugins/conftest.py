"""Distributions that are really installed: a module and a .dist-info with an entry point, on sys.path."""

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.core.checkpoint.sidecar import Sidecar, write_sidecar
from conform.core.files.digest import file_sha256

# A distribution of its own: its folder is installed, not collected.
collect_ignore = ["example-plugin"]

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
        entries.write_text(f"{head}{entry} = {module if target is None else target}\n")
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


def pip_install(source, target):
    """Install the project in `source` into the folder `target`, without network and without touching `source`."""
    copy = target.parent / f"{target.name}-source"
    shutil.copytree(source, copy)
    options = ("--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_conform(*arguments, installed, cwd=None):
    """The conform command in a process of its own that also sees what is installed in the folder."""
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "conform.core.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory):
    """The folder into which the example plugin was installed by pip."""
    return pip_install(Path(__file__).with_name("example-plugin"), tmp_path_factory.mktemp("example") / "installed")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """A complete checkpoint of one layer."""
    import sentencepiece

    rng, text = random.Random(1), io.BytesIO()
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)]
    lines = iter([" ".join(rng.choices(words, k=12)) for _ in range(200)])
    recipe = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    recipe |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
    recipe |= {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "num_threads": 1, "minloglevel": 2}
    recipe |= {"sentence_iterator": lines, "model_writer": text, "vocab_size": 320}
    sentencepiece.SentencePieceTrainer.train(**recipe)
    nano = load_contract("nano")
    model = replace(nano.model, layers=1, hidden=256, heads=4, kv_heads=1, head_dim=64, rope_dim=64, ffn=512, vocab=320)
    contract = replace(nano, name="small", model=model)
    folder, values = tmp_path_factory.mktemp("small"), np.random.default_rng(3)
    save_file(
        {spec.name: values.standard_normal(spec.shape, np.float32) for spec in inventory(model)},
        folder / "model.safetensors",
    )
    (folder / "tokenizer.model").write_bytes(text.getvalue())
    files = {name: file_sha256(folder / name) for name in ("model.safetensors", "tokenizer.model")}
    write_sidecar(folder, Sidecar(contract, contract.digest, files, hashlib.sha256(text.getvalue()).hexdigest()))
    return folder
