"""Inference: the contract that the files beside a stranger's weights describe."""

from pathlib import Path

from conform.contract.infer import Inference, infer_contract
from conform.core.files.json import read_json_object

__all__ = ["infer_checkpoint"]


def infer_checkpoint(folder: Path, name: str | None = None) -> Inference:
    """What config.json in this folder describes, under that name or the folder's.

    Raises InputError when it cannot be read, or is not the configuration of a model that a contract can express.
    """
    config = read_json_object(folder / "config.json", "a Hugging Face configuration")
    return infer_contract(config, name or folder.resolve().name)
