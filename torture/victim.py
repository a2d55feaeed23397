"""Victim: one command of conform in a process of its own, with one fault.

Imported before processes are forked: a command then starts at once.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from torture.faults import Fault, Faults

__all__ = ["run_command"]

_MODULES = (
    *("conform.core.cli.export", "conform.core.export.run", "conform.plugins.host", "conform.trainer.cli.imatrix"),
    *("conform.trainer.cli.train", "conform.trainer.run.launch", "conform.trainer.importance.measure"),
    *("conform.trainer.cli.data", "conform.trainer.data.build", "conform.trainer.cli.tokenizer", "sentencepiece"),
)
for _name in _MODULES:
    importlib.import_module(_name)


def run_command(arguments: list[str], folder: Path, fault: Fault) -> None:
    """Run `conform ARGUMENTS` in the folder; what it says goes to FOLDER.said, its operations to FOLDER.operations."""
    with folder.with_suffix(".said").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.chdir(folder)
    _hurry()
    faults = Faults(folder, fault)
    operations = folder.with_suffix(".operations")
    sys.argv = ["conform", *arguments]
    from conform.core.cli.main import main
    from conform.trainer.checkpoints import snapshot

    faults.wrap_writer(snapshot, "save_file")
    faults.install()
    try:
        main()
    finally:
        operations.write_text(json.dumps(faults.operations))


def _hurry() -> None:
    """What conform does every few seconds or megabytes it does all the time, and the machine's peak is not measured."""
    from conform.trainer.cli import imatrix
    from conform.trainer.data import batches, build
    from conform.trainer.run import recorder

    imatrix._SECONDS_BETWEEN_SAVES = -1
    batches._BATCH_CHARS = 2000
    build._JOURNAL_SECONDS = -1.0
    recorder.peak_flops = lambda _device, _dtype: 1e12
