import json
import os
from pathlib import Path

import pytest

from conform.trainer.data.build import build_data
from conform.trainer.tokenizer.recipe import train_tokenizer


@pytest.fixture(scope="module")
def no_fsync():
    """No test cuts the power, and syncing thousands of little files takes most of a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """Real text on every Python machine: the sources of the json package, in many small documents."""
    folder = tmp_path_factory.mktemp("text")
    text = "".join(path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    for number, start in enumerate(range(0, len(text), 500)):
        (folder / f"{number:03d}.txt").write_text(text[start : start + 500])
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, text_folder):
    """A tokenizer of 512 pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([str(text_folder)], 512, folder)
    return folder


@pytest.fixture(scope="session")
def built_data(tmp_path_factory, text_folder, tokenizer_folder):
    """Finished shards of 1000 tokens, several on each side. Copy before changing anything."""
    folder = tmp_path_factory.mktemp("built") / "data"
    build_data([str(text_folder)], tokenizer_folder, folder, shard_tokens=1000, held_out=0.2)
    return folder
