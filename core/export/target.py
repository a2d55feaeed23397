"""Target: where exported files go, decided and checked before anything is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from conform.contract.bounded import open_regular
from conform.core.errors import PlanError

__all__ = ["check_target", "export_targets"]


def export_targets(quants: Sequence[str], contract_name: str, folder: Path, output: str | None) -> Mapping[str, Path]:
    """Quantizer's name → file: `output`, or CONTRACT-QUANT.gguf in `output` or else in the checkpoint's folder.

    `output` is a folder when it is one already, ends in a slash, or has to hold several files.
    Raises PlanError when there is no folder to write into, or a file stands there that is not an older export.
    """
    place = folder if output is None else Path(output)
    if output is None or output.endswith("/") or place.is_dir() or len(quants) > 1:
        if place.exists() and not place.is_dir():
            raise PlanError(f"{output}: is a file, but a folder was asked for, or {len(quants)} exports need one")
        targets = {quant: place / _file_name(contract_name, quant) for quant in quants}
    else:
        targets = {quants[0]: place}
    for target in targets.values():
        check_target(target)
    return targets


def _file_name(contract_name: str, quant: str) -> str:
    name = f"{contract_name}-{quant}.gguf"
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise PlanError(f"contract {contract_name!r} cannot be made into a file name; name the file with -o")
    return name


def check_target(target: Path) -> None:
    """Pass when a GGUF file may be written there.

    Raises PlanError for a folder, and for a file that is something else.
    """
    if target.is_dir():
        raise PlanError(f"{target}: is a folder, not a file")
    if target.exists() and not target.is_file():
        raise PlanError(f"{target}: is a device or a pipe; an export is written beside its name and then moved there")
    if target.exists() and not _is_gguf(target):
        raise PlanError(f"{target}: exists and is not a GGUF file; it will not be overwritten")


def _is_gguf(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(4) in (b"GGUF", b"")
