"""Inference: the contract that the files beside a stranger's weights describe."""

from pathlib import Path
from typing import TYPE_CHECKING

from conform.contract.infer import Inference, infer_contract
from conform.core.files.json import read_json_object
from conform.core.tokenizer.infer import infer_tokenizer

if TYPE_CHECKING:
    from conform.core.checkpoint.checkpoint import Checkpoint

__all__ = ["infer_checkpoint", "inference_of"]


def infer_checkpoint(folder: Path, name: str | None = None) -> Inference:
    """What config.json in this folder and the tokenizer beside it describe, under that name or the folder's.

    Raises InputError when it cannot be read, or is not the configuration of a model that a contract can express.
    """
    config = read_json_object(folder / "config.json", "a Hugging Face configuration")
    tokenizer = infer_tokenizer(folder, config.get("vocab_size"))
    return infer_contract(config, name or folder.resolve().name, tokenizer.spec, tokenizer.origins)


def inference_of(checkpoint: "Checkpoint", asked: str | None) -> Inference | None:
    """What is inferred where neither the user nor a sidecar names the contract; None where one of them does."""
    if asked is not None or checkpoint.sidecar is not None or checkpoint.config_path is None:
        return None
    return infer_checkpoint(checkpoint.folder)
