"""Receipt: the sha256 of everything that a verdict's numbers depend on, and how they were obtained."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conform.core.files.digest import file_sha256
from conform.core.runtime import Limits, Runtime, RuntimeFault
from conform.core.tokenizer.settings import tokenizer_digest
from conform.parity.candidate import Candidate
from conform.parity.custody import Kept
from conform.parity.questions.sequences import Scope, WatchedSequence
from conform.parity.source_check import SourceCheck
from conform.parity.verdict import RungResult

__all__ = ["receipt", "source_receipt"]


def receipt(
    candidate: Candidate, kept: Sequence[Kept], scope: Scope, limits: Limits, sequences: Sequence[WatchedSequence]
) -> dict[str, Any]:
    """Digests of runtime, file, checkpoint, tokenizer, contract and prompts; the reference's identity; the options."""
    model, *programs = kept
    source, contract = candidate.source, candidate.contract
    tokenizer = source.checkpoint.tokenizer_path if source else None
    return {
        "runtime": _runtime(candidate, programs),
        "gguf": {"path": str(model.original), "sha256": model.sha256, "judged": _how(model)},
        "checkpoint": {"path": str(source.checkpoint.path), "digest": source.checkpoint.digest} if source else None,
        "contract": {"name": contract.name, "digest": contract.digest} if contract else None,
        "tokenizer": _tokenizer(tokenizer) if tokenizer else None,
        "prompts": {"sha256": _prompts_digest(sequences), "sequences": len(sequences), "max_tokens": scope.max_tokens},
        "seed": scope.seed,
        "limits": {"seconds": limits.seconds, "memory": limits.memory, "output": limits.output},
        "reference": _reference_identity(),
    }


def _tokenizer(path: Path) -> dict[str, Any]:
    """The file with the pieces, and the digest that covers the settings beside it too."""
    return {"path": str(path), "sha256": file_sha256(path), "digest": tokenizer_digest(path)}


def source_receipt(check: SourceCheck | None, result: RungResult) -> dict[str, Any]:
    """What another implementation was asked, and its versions; or why the source was not checked."""
    if check is None:
        return {
            "checked": False,
            "waived": result.status == "waived",
            "reason": ": ".join((result.reason, *result.notes)),
        }
    ids = json.dumps([[sequence.name, *sequence.ids] for sequence in check.sequences], separators=(",", ":"))
    return {
        "checked": True,
        "library": check.library,
        "versions": dict(check.versions),
        "config_sha256": check.config_sha256,
        "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        "positions": result.compared,
    }


def _runtime(candidate: Candidate, programs: Sequence[Kept]) -> dict[str, Any]:
    """The program and its companions as they were kept; one that runs in conform's own process names itself."""
    identity, view = candidate.runtime.identity, _view(candidate.runtime)
    if not programs:
        return {
            "driver": identity.driver,
            "program": identity.program,
            "sha256": dict(identity.digests),
            "view": view,
        }
    return {
        "driver": identity.driver,
        "program": str(programs[0].original),
        "sha256": {program.original.name: program.sha256 for program in programs},
        "judged": _how(programs[0]),
        "view": view,
    }


def _view(runtime: Runtime) -> list[str] | None:
    """What could be observed; None of a runtime that does not say."""
    try:
        return list(runtime.view.names)
    except RuntimeFault:
        return None


def _how(kept: Kept) -> str:
    return "in a private copy" if kept.copied else "where it lies, hashed before and after"


def _prompts_digest(sequences: Sequence[WatchedSequence]) -> str:
    """sha256 over every request in canonical JSON."""
    rows = [
        [
            sequence.name,
            sequence.request.prompt,
            list(sequence.prompt_ids),
            list(sequence.request.forced),
            list(sequence.steps),
            sequence.request.max_tokens,
        ]
        for sequence in sequences
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _reference_identity() -> Mapping[str, Any]:
    return {
        "conform": version("gguf-conform"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "arithmetic": "sums in float64, each product rounded to float32; noise: float32 throughout",
    }
