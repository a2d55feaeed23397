"""Foreign program: transformers over one checkpoint, in a process of its own.

    python -m conform.parity.reference.foreign_program FOLDER

FOLDER holds `checkpoint/` and `sequences.json`, a list of lists of ids. Written to it are `logits.npy`, float32
(positions of all sequences, vocab), and `report.json`: which library and class computed them, and with what versions,
or the error that it ended with. Nothing of conform is used: what is compared with conform must not share its code.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["compute", "main"]


def compute(checkpoint: Path, sequences: Sequence[Sequence[int]]) -> tuple[str, NDArray[np.float32]]:
    """The name of the class that transformers loads the checkpoint as, and its logits, (positions, vocab).

    In float32 on the CPU; no code of the checkpoint's own is run, no pickle is loaded, nothing is fetched.
    Raises ValueError when what was loaded is not what the checkpoint holds, and whatever transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # _check_complete names the tensor, where the library would point to a log
        output_loading_info=True,
    )
    _check_complete(loading)
    _check_class(model)
    with torch.inference_mode():
        rows = [model(torch.tensor([[*ids]]), use_cache=False).logits[0].float().numpy() for ids in sequences]
    return type(model).__name__, np.concatenate(rows)


def main(folder: Path) -> None:
    """Compute the logits of the folder's sequences, and leave them or the error there."""
    try:
        name, logits = compute(folder / "checkpoint", json.loads((folder / "sequences.json").read_text()))
        np.save(folder / "logits.npy", logits)
        versions = {library: version(library) for library in ("transformers", "torch")}
        report: dict[str, Any] = {"class": name, "versions": versions}
    except Exception as error:  # whatever a library may raise is for the verdict to say
        report = {"error": f"{type(error).__name__}: {error}".encode(errors="replace").decode()}
    (folder / "report.json").write_text(json.dumps(report))


def _check_complete(loading: Mapping[str, Any]) -> None:
    """A tensor that the model lacks would be random, one that it does not know would be left out, both in silence."""
    for kind in ("missing", "unexpected", "mismatched"):
        # A mismatched one comes with its two shapes.
        names = (entry if isinstance(entry, str) else entry[0] for entry in loading.get(f"{kind}_keys", ()))
        if found := sorted(names):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(f"{kind} tensors: {found[0]}{more}")


def _check_class(model: Any) -> None:
    """What config.json names and what its model_type means must be the same, and no key of it be ignored."""
    config, name = model.config, type(model).__name__
    if config.architectures and name not in config.architectures:
        raise ValueError(f"config.json names {', '.join(config.architectures)}, but its model_type means {name}")
    # Versions differ in where they keep it; none of the families that conform reads computes with it.
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1)) not in (None, 1):
        raise ValueError(f"{name} rotates whole heads and ignores partial_rotary_factor")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
