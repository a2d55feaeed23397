"""docs/protocol.md says what the driver asks, and what it takes for an answer."""

import json
import re
from pathlib import Path

from conform.parity.drivers import jsonlines
from conform.parity.drivers.conversation import MOST_SESSIONS

TEXT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


def test_every_operation_is_documented_and_no_other():
    code = Path(jsonlines.__file__).read_text()
    asked = set(re.findall(r'_(?:ask|required)\("(\w+)"', code)) | set(re.findall(r'"op": "(\w+)"', code))
    documented = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert documented == {"op", *asked}  # the heading, and what stands under it


def test_every_member_that_the_driver_reads_is_documented():
    code = Path(jsonlines.__file__).read_text()
    read = set(re.findall(r'(?:_field|_floats|_bytes|_described)\(\w+, "(\w+)"', code))
    assert sorted(name for name in read if f"`{name}`" not in TEXT) == []


def test_what_can_be_observed_is_documented():
    shown = re.search(r"known = \{([^}]*)\}", Path(jsonlines.__file__).read_text())
    assert shown is not None
    assert all(f"`{word.strip()}`" in TEXT for word in shown[1].split(","))


def test_the_number_of_processes_is_documented():
    assert MOST_SESSIONS + 1 == 5
    assert "more than five times in a verdict" in TEXT


def test_the_lines_of_the_conversation_are_json():
    block = TEXT.split("```")[1].replace("\n   ", " ")
    lines = [line[2:] for line in block.splitlines() if line.startswith(("> ", "< ")) and ", …}" not in line]
    assert len(lines) == 7
    assert all(isinstance(json.loads(line), dict) for line in lines)
