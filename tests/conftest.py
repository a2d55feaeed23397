"""Settings that every test shares, and marks that say what a test needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Nothing here may depend on how busy the machine is. In CI the examples are the same in every run.
settings.register_profile(
    "conform",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("conform")

# A test gets the marks of the place where it stands, and of the fixtures that it uses, directly or not. The slow ones
# were found by measuring; where only some cases of a test are slow, they are marked where they are listed.
PLACES = {
    "parity/goref/": "go",
    "parity/cli/test_parity.py::test_without_": "go",
    "trainer/run/whole/": "training",
    "core/cli/test_extras.py": "installs",
    "plugins/test_project.py": "installs",
    "bench/test_memory.py": "slow",
    "bench/test_quantizers.py": "slow",
    "core/checkpoint/test_safetensors_header.py::test_many_names": "slow",
    "core/cli/test_main.py::test_a_file_name_need_not": "slow",
    "core/cli/test_main.py::test_what_the_system": "slow",
    "core/export/test_run.py::test_a_disk_that_is_full": "slow",
    "core/export/test_run.py::test_a_killed_export": "slow",
    "core/tokenizer/test_pre.py": "slow",
    "core/tokenizer/test_pre_words.py": "slow",
    "core/verify/test_single_changes.py": "slow",
    "plugins/quantizers/test_conversion.py::test_the_bytes_are_the_same_on_every_machine": "slow",
    "plugins/quantizers/test_lanes.py::test_what_is_written": "slow",
    "examples/": "slow",
    "parity/drivers/test_process.py": "slow",
    "parity/test_source_check.py": "slow",
    "plugins/test_hostile_plugin.py": "slow",
    "plugins/testing/test_battery.py": "slow",
    "trainer/data/test_build.py::test_a_full_disk": "slow",
    "trainer/data/test_build.py::test_a_killed_build": "slow",
    "trainer/model/test_model.py::test_a_step_on_another": "slow",
    "trainer/model/test_model.py::test_recomputing": "slow",
    "trainer/planning/test_flops.py": "slow",
    "trainer/run/test_report.py": "slow",
    "plugins/cli/test_plugins.py::test_certify": "slow",
    "plugins/quantizers/kernels/test_notice.py": "slow",
    "torture/test_hostile.py::test_every_reader": "slow",
}
FIXTURES = {
    "goref": "go",
    "mutated_goref": "go",
    "torchrun": "training",
    "example_plugin": "installs",
    "wheel_file": "installs",
}


def pytest_collection_modifyitems(items):
    """Mark every test with what it needs, so that `make check` can leave it out."""
    for item in items:
        place = item.nodeid.removeprefix("tests/")
        marks = {mark for start, mark in PLACES.items() if place.startswith(start)}
        marks |= {FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES}
        for mark in sorted(marks):
            item.add_marker(mark)


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory):
    """The wheel, built from a copy so that no build folder is left here."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("contract", "core", "parity", "plugins", "trainer"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--wheel", "--no-isolation", "--outdir", str(source / "dist"))
    command = [sys.executable, "-m", "build", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def make_tokenizer_json():
    """make_tokenizer_json(size, pre) is a byte-level BPE of `size` pieces as a tokenizer.json holds it, parsed.

    Its first pieces are <|begin|>, <|end|> and the bytes; it puts nothing around a text.
    """
    import tokenizers
    from tokenizers.trainers import BpeTrainer

    from conform.core.tokenizer.pre import PRE_TOKENIZERS

    def make(size=400, pre="gpt-2"):
        known = PRE_TOKENIZERS[pre]
        empty = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": known.ignore_merges}
        decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        parts = {"pre_tokenizer": known.definition, "decoder": decoder, "model": empty}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parts))
        trainer = BpeTrainer(
            vocab_size=size,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|begin|>", "<|end|>"],
            show_progress=False,
        )
        tokenizer.train_from_iterator([(ROOT / "LICENSE").read_text(encoding="utf-8")] * 2, trainer)
        made = json.loads(tokenizer.to_str())
        assert len(made["model"]["vocab"]) == size
        return made

    return make
