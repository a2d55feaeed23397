"""docs/reference/parity.md says what the code does."""

import re
from pathlib import Path

from conform.parity.cli.parity import parity
from conform.parity.rungs.ceilings import CEILINGS
from conform.parity.selftest.faulty_runtimes import faulty_runtimes
from conform.parity.selftest.mutants import FILE_MUTANTS
from conform.parity.verdict import RUNGS

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "parity.md").read_text()


def test_every_ceiling_is_documented():
    found = re.findall(r"\| (\w+) \| ([\d.e-]+) \| ([\d.e-]+) (?=\|)", TEXT)
    assert {name: (float(error), float(kl)) for name, error, kl in found} == {
        name: (ceiling.relative_error, ceiling.kl) for name, ceiling in CEILINGS.items()
    }


def test_every_rung_is_documented_in_order():
    section = TEXT.split("## The ladder")[1].split("\n### ")[0]
    assert tuple(re.findall(r"^\| (\w+) \| ", section, re.MULTILINE)) == ("rung", *RUNGS)


def test_every_planted_fault_is_documented_with_its_rung():
    rows = re.findall(r"^\| ([\w-]+) \| (file|runtime) \| (.*) \| (\w+) \| .* \|$", TEXT, re.MULTILINE)
    assert [(name, what, rung) for name, _, what, rung in rows] == [
        (fault.name, fault.what, fault.breaks) for fault in (*FILE_MUTANTS, *faulty_runtimes())
    ]


def test_every_option_is_documented():
    options = {name for option in parity.params for name in option.opts if name.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", TEXT))
