"""Locate: the checkpoint that a folder leads to: a run's newest, or the snapshot in a cache of downloads."""

from pathlib import Path

from conform.core.checkpoint.sidecar import SIDECAR_NAME
from conform.core.errors import CheckpointError

__all__ = ["finished_checkpoints", "locate_checkpoint", "newest_checkpoint"]


def locate_checkpoint(path: Path) -> Path:
    """The path itself; for the folder of a run its newest checkpoint, for a model in a hub's cache its snapshot.

    Raises CheckpointError for a run without a complete checkpoint, and a cache that holds several snapshots.
    """
    if (path / "checkpoints").is_dir() and not any(path.glob("*.safetensors")):
        return newest_checkpoint(path)
    if (path / "snapshots").is_dir() and (path / "blobs").is_dir():
        return _snapshot(path)
    return path


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The folder of the complete checkpoint that was finished last, anywhere up to three levels under `runs`.

    Raises CheckpointError when there is none.
    """
    return finished_checkpoints(runs)[0]


def finished_checkpoints(runs: Path) -> list[Path]:
    """The folders of all complete checkpoints up to three levels under `runs`, the one finished last first.

    Raises CheckpointError when there is none.
    """
    sidecars = [
        path for depth in range(4) for path in runs.glob("*/" * depth + SIDECAR_NAME) if _is_finished(runs, path)
    ]
    if not sidecars:
        raise CheckpointError(f"{runs}: no complete checkpoint under this folder; name one, or train one first")
    sidecars.sort(key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)
    return [path.parent for path in sidecars]


def _is_finished(runs: Path, sidecar: Path) -> bool:
    # A hidden folder is a checkpoint that is still being written.
    return not any(part.startswith(".") for part in sidecar.relative_to(runs).parent.parts)


def _snapshot(cache: Path) -> Path:
    """The snapshot that the main branch names, else the only one."""
    snapshots = sorted(path for path in (cache / "snapshots").iterdir() if path.is_dir())
    main = cache / "refs" / "main"
    named = [path for path in snapshots if main.is_file() and path.name == main.read_text(errors="replace").strip()]
    for found in (named, snapshots):
        if len(found) == 1:
            return found[0]
    raise CheckpointError(
        f"{cache}: a cache with {len(snapshots)} snapshots, of which refs/main names none; give the path of one"
    )
