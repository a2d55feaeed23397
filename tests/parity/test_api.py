"""conform.parity as other programs import it."""

import subprocess
import sys

import pytest

import conform.parity
from conform.core.errors import ConformError
from conform.parity import Limits, Scope, judge_runtime

FEW = Scope(max_tokens=4, forced_positions=6, longest=24)


def test_every_public_name_is_there():
    assert all(getattr(conform.parity, name) is not None for name in conform.parity.__all__)


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="judge_anything"):
        conform.parity.judge_anything  # noqa: B018 - an attribute that raises


@pytest.mark.parametrize(
    "code",
    [
        "import conform.parity.drivers.bitnet_go",
        "from conform.plugins.host import load_registry; load_registry()",
        "import conform.parity.cli.parity",
        "import conform.core.cli.export",
    ],
)
def test_drivers_and_commands_import_no_torch(code):
    code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_runtime_is_judged_with_the_checkpoint_beside_the_file(make_gguf, micro, goref, registry):
    said = []
    verdict = judge_runtime(
        make_gguf(micro, "f16"),
        goref,
        registry=registry,
        scope=FEW,
        limits=Limits(seconds=60.0, memory=2 << 30),
        progress=lambda *stage: said.append(stage),
    )
    assert verdict.passed
    assert verdict.receipt["checkpoint"]["digest"]
    assert verdict.receipt["limits"]["seconds"] == 60.0
    assert ("tracing the runtime", 1) in {stage[:2] for stage in said}


def test_without_a_program_goref_is_judged(make_gguf, micro, goref, registry):
    verdict = judge_runtime(make_gguf(micro, "f16"), registry=registry, scope=FEW)
    assert verdict.passed
    assert verdict.receipt["runtime"]["program"] == str(goref)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"driver": "none"}, "no such driver"),
        ({"driver": "jsonlines"}, "needs a program to judge"),
        ({"program": sys.executable}, "this is conform itself"),
        ({"checkpoint": "none"}, "no such file or folder"),
        ({"tokenizer": __file__}, "not a SentencePiece model"),
        ({"scope": Scope(prompts=("word " * 300,))}, "the model's context is"),
        ({"scope": Scope(prompts=("a\0b",))}, "NUL character"),
    ],
)
def test_what_cannot_be_judged_is_an_error(make_gguf, micro, registry, tmp_path, asked, message):
    program = tmp_path / "bitnet"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    asked = {"program": program, **asked} if "driver" not in asked else asked
    paths = {name: tmp_path.__class__(asked[name]) for name in asked.keys() & {"program", "checkpoint", "tokenizer"}}
    with pytest.raises(ConformError, match=message):
        judge_runtime(make_gguf(micro, "f16"), registry=registry, **{**asked, **paths})


def test_a_file_that_is_not_there_is_an_error(goref, registry, tmp_path):
    with pytest.raises(ConformError, match="no such file"):
        judge_runtime(tmp_path / "none.gguf", goref, registry=registry)
