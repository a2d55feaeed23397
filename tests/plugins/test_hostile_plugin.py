"""A plugin that prints, and that ends the process where it is told to: what each command makes of it."""

import json

import pytest

from .conftest import PREAMBLE, run_conform

SOURCE = PREAMBLE.replace(
    "CONFORM_PLUGIN_API = 1",
    """
import os
import sys

CONFORM_PLUGIN_API = 1


def reach(place):
    print("reached", place)
    os.write(1, b"from C\\\\n")
    if os.environ.get("HOSTILE") == place:
        sys.exit(0)


reach("import")
""",
)
for place in ("nbytes", "quantize", "dequantize"):
    SOURCE = SOURCE.replace(f"    def {place}(self, ", f"    @reaching\n    def {place}(self, ")
SOURCE = (
    SOURCE.replace(
        "@dataclass",
        """
def reaching(method):
    def call(*arguments):
        reach(method.__name__)
        return method(*arguments)

    return call


@dataclass""",
    )
    + """
class Writer:
    name = "hostile"

    def keys(self, facts):
        reach("keys")
        return {}


@hookimpl
def conform_quantizers():
    reach("hook")
    return [Plain()]


@hookimpl
def conform_metadata_writers():
    return [Writer()]
"""
)


@pytest.fixture
def hostile(site_packages):
    """The folder in which the plugin is installed."""
    site_packages.install("hostile", SOURCE, module="hostile_plugin")
    return site_packages.folder


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nbytes", "quantizer plain of hostile 1.0 failed to size shape"),
        ("quantize", "quantizer plain of hostile 1.0 failed: SystemExit: 0"),
        ("dequantize", "quantizer plain of hostile 1.0 failed to decode: SystemExit: 0"),
        ("keys", "metadata writer hostile of hostile 1.0 failed: SystemExit: 0"),
        ("import", "plugin hostile:main (hostile 1.0) failed: SystemExit: 0"),
        ("hook", "plugin hostile:main (hostile 1.0) failed: SystemExit: 0"),
    ],
)
def test_an_export_that_a_plugin_ends_leaves_no_file_and_is_no_success(
    hostile, small_checkpoint, tmp_path, monkeypatch, place, sentence
):
    monkeypatch.setenv("HOSTILE", place)
    file = tmp_path / "plain.gguf"
    done = run_conform("export", small_checkpoint, "--quant", "plain", "-o", file, installed=hostile)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert not file.exists()


def test_a_mix_that_a_plugin_ends_is_no_success(hostile, small_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE", "dequantize")
    quants = ("--quant", "plain", "--quant", "q8_0", "--target-bpw", "12", "-o", tmp_path / "mix.gguf")
    done = run_conform("export", small_checkpoint, *quants, installed=hostile)
    assert done.returncode == 2
    assert "quantizer plain of hostile 1.0 failed to decode: SystemExit: 0" in done.stderr


def test_a_verification_that_a_plugin_ends_is_no_verdict(hostile, small_checkpoint, tmp_path, monkeypatch):
    file = tmp_path / "plain.gguf"
    done = run_conform("export", small_checkpoint, "--quant", "plain", "-o", file, "--json", installed=hostile)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]
    verified = run_conform("verify", file, "--json", installed=hostile)
    assert json.loads(verified.stdout)["file"] == str(file)
    assert "reached dequantize" in verified.stderr
    monkeypatch.setenv("HOSTILE", "dequantize")
    done = run_conform("verify", file, installed=hostile)
    assert done.returncode == 2
    assert "quantizer plain of hostile 1.0 failed to decode: SystemExit: 0" in done.stderr


def test_the_list_records_a_plugin_that_ends_its_import(hostile, monkeypatch):
    monkeypatch.setenv("HOSTILE", "import")
    done = run_conform("plugins", "--json", installed=hostile)
    assert done.returncode == 1
    (failure,) = json.loads(done.stdout)["failures"]
    assert failure == {"plugin": "hostile:main", "owner": "hostile 1.0", "reason": "SystemExit: 0"}


def test_certification_counts_what_a_plugin_ends_as_failures(hostile, monkeypatch):
    monkeypatch.setenv("HOSTILE", "quantize")
    done = run_conform("plugins", "certify", "plain", "--json", installed=hostile)
    assert done.returncode == 1, done.stderr
    receipt = json.loads(done.stdout)
    assert not receipt["certified"]
    assert "raised SystemExit: 0" in {check["detail"] for check in receipt["checks"]}


def test_a_verdict_on_a_file_whose_decoder_ends_the_process_is_a_failed_one(
    hostile, small_checkpoint, tmp_path, monkeypatch
):
    file, program = tmp_path / "plain.gguf", tmp_path / "runtime"
    done = run_conform("export", small_checkpoint, "--quant", "plain", "-o", file, installed=hostile)
    assert done.returncode == 0, done.stderr
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("HOSTILE", "dequantize")
    asked = ("--driver", "jsonlines", "--runtime", program, "--checkpoint", small_checkpoint, "--json")
    done = run_conform("parity", file, *asked, installed=hostile)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (verdict,) = json.loads(done.stdout)["verdicts"]
    reasons = {rung["rung"]: rung["reason"] for rung in verdict["rungs"]}
    assert "quantizer plain of hostile 1.0 failed to decode: SystemExit: 0" in reasons["file"]
    assert not verdict["conforms"]
