"""The bench of quantizers, without a peer: none of these tests needs ggml."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def _run(*arguments, **environment):
    command = [sys.executable, str(BENCH / "quantizers.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=BENCH
    )


@pytest.fixture
def no_peer(tmp_path):
    return {"CONFORM_GGML": str(tmp_path)}


def test_a_missing_peer_is_said_and_conform_is_measured_all_the_same(tmp_path, no_peer):
    report, tables = tmp_path / "report.json", tmp_path / "report.md"
    options = ("--quant", "q8_0", "--rows", 2, "--repeats", 1, "--json", report, "--markdown", tables)
    done = _run(*options, **no_peer)
    assert done.returncode == 0, done.stderr
    assert "no libggml-base there" in done.stderr
    measured = json.loads(report.read_text())
    assert measured["facts"]["ggml"] == "none"
    assert {(r["type"], r["tool"]) for r in measured["results"]} == {("q8_0", "conform")}
    assert all(0.001 < r["rel_rmse"] < 0.02 and r["speed_ratio"] is None for r in measured["results"])
    (conversion,) = measured["conversions"]
    assert min(value for key, value in conversion.items() if key not in {"type", "tool"}) > 0
    assert "| q8_0 | 8.5 | gauss |" in tables.read_text()


def test_a_missing_checkpoint_is_one_sentence(tmp_path, no_peer):
    done = _run("--quant", "q8_0", "--checkpoint", tmp_path / "none", **no_peer)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("quantizers: ")
    assert "Traceback" not in done.stderr
