import json

import pytest

from conform.core.export.cost import Cost
from conform.core.export.journal import ExportJournal

GOOD = ["name", "0" * 64, *[(1.0).hex()] * 4]
HOSTILE = {
    "deep": "[" * 100_000,
    "a float that is too large": json.dumps([*GOOD[:5], "0x1p99999"]),
    "not a number": json.dumps([*GOOD[:5], "nan"]),
    "a negative number": json.dumps([*GOOD[:5], (-1.0).hex()]),
    "a decimal number": json.dumps([*GOOD[:5], 1.0]),
    "one number more": json.dumps([*GOOD, GOOD[2]]),
    "a name of numbers": json.dumps([1, *GOOD[1:]]),
    "5,000 digits": "[" + "1" * 5000 + "]",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_line_says_nothing_and_the_others_count(tmp_path, line):
    lines = ["fingerprint", json.dumps(GOOD), line, ""]
    (tmp_path / ".model.gguf.journal").write_text("\n".join(lines))
    journal = ExportJournal(tmp_path / "model.gguf", "fingerprint", resume=True)
    assert journal.done == {"name": ("0" * 64, Cost(1.0, 1.0, 1.0, 1.0))}
