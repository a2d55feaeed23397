"""Foreign: the logits that another implementation of a checkpoint's family computes, asked in a process of its own.

That implementation is transformers, which nearly every checkpoint is written for. It is not imported here: what it
prints, fetches, changes or breaks stays in its own process, which sees a private folder with links to the weights and
config.json, and nothing else of the checkpoint: neither code nor pickles.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.checkpoint.safetensors_header import read_safetensors_header
from conform.core.errors import InputError
from conform.core.files.json import read_json_object
from conform.core.quantizer import Float32
from conform.core.runtime import Limits
from conform.parity.drivers.process import Finished, run_program
from conform.parity.errors import ForeignError

__all__ = ["LIBRARY", "ForeignLogits", "foreign_logits", "library_is_installed"]

LIBRARY = "transformers"
"""The module of the other implementation."""

_PROGRAM = "conform.parity.reference.foreign_program"
_SECONDS = 1800.0
# What Python, torch and the library need besides the weights.
_BYTES_BESIDES = 2 << 30
# Nothing is fetched or reported, no kernel is compiled, no accelerator is used, nothing is drawn on a terminal.
_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


@dataclass(frozen=True, slots=True)
class ForeignLogits:
    """The logits of each sequence, (positions, vocab) float32; the class that computed them, versions by library."""

    logits: Sequence[Float32]
    class_name: str
    versions: Mapping[str, str]

    @property
    def library(self) -> str:
        """Library, version and class in a few words."""
        return f"{LIBRARY} {self.versions[LIBRARY]}, {self.class_name}"


def library_is_installed() -> bool:
    """Whether the other implementation can be asked at all; imports nothing."""
    return find_spec(LIBRARY) is not None


def foreign_logits(checkpoint: Checkpoint, parameters: int, sequences: Sequence[Sequence[int]]) -> ForeignLogits:
    """What the library computes at every position of these ids, in float32.

    Raises ForeignError when there is no config.json for it to go by, the `parameters` do not fit into this machine's
    memory, or the library does not answer.
    """
    memory = _memory_for(parameters)
    with tempfile.TemporaryDirectory(prefix="conform-foreign-") as name:
        folder = Path(name)
        _link(checkpoint, folder / "checkpoint")
        (folder / "sequences.json").write_text(json.dumps([[*ids] for ids in sequences]))
        command = (sys.executable, "-P", "-m", _PROGRAM, folder)
        environment = {**os.environ, **_QUIET, "HF_HOME": str(folder / "home")}
        finished = run_program(command, environment, Limits(seconds=_SECONDS, memory=2 * memory))
        report = _report(folder / "report.json", finished)
        return _answer(report, folder / "logits.npy", [len(ids) for ids in sequences])


def _memory_for(parameters: int) -> int:
    needed = 4 * parameters + _BYTES_BESIDES
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ForeignError(
            f"{LIBRARY} needs about {needed / 2**30:.1f} GiB for {parameters} parameters in float32, but this machine "
            f"has {there / 2**30:.1f} GiB; use a larger one"
        )
    return needed


def _link(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder that holds the same weights under usual names, in whichever form they came, and config.json."""
    if checkpoint.config_path is None:
        raise ForeignError(f"{checkpoint.folder}: no config.json, so {LIBRARY} cannot tell what model it is")
    folder.mkdir()
    (folder / "config.json").symlink_to(checkpoint.config_path.resolve())
    places: dict[str, str] = {}
    for number, path in enumerate(checkpoint.files, 1):
        name = f"model-{number:05}-of-{len(checkpoint.files):05}.safetensors"
        (folder / name).symlink_to(path.resolve())
        places |= dict.fromkeys(read_safetensors_header(path), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _report(path: Path, finished: Finished) -> Mapping[str, Any]:
    try:
        report = read_json_object(path, f"a report of {LIBRARY}")
    except InputError as error:
        last = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
        how = f"exit status {finished.code}" if finished.ending == "exited" else finished.ending
        raise ForeignError(f"{LIBRARY} did not answer: {'; '.join((how, *last))}") from error
    if "error" in report:
        raise ForeignError(f"{LIBRARY} cannot run this checkpoint: {' '.join(str(report['error']).split())}")
    return report


def _answer(report: Mapping[str, Any], path: Path, lengths: Sequence[int]) -> ForeignLogits:
    rows = np.load(path, allow_pickle=False)
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    return ForeignLogits(parts, str(report["class"]), dict(report["versions"]))
