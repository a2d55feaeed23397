from pathlib import Path

from conform.contract.finding import Finding
from conform.parity.custody import Kept
from conform.parity.rungs.integrity import judge_integrity

FILES = [
    Kept(Path("model.gguf"), Path("/private/model.gguf"), "00", True),
    Kept(Path("run.py"), Path("run.py"), "01", False),
]
CHANGED = Finding("error", "model.gguf", "sha256 00", "sha256 02")


def test_untouched_files_pass_and_the_note_says_how_they_were_kept():
    result = judge_integrity(FILES, [])
    assert result.passed
    assert result.compared == 2
    assert result.notes == ("1 of 2 files judged in private copies, the others hashed before and after",)


def test_a_changed_file_fails():
    result = judge_integrity(FILES, [CHANGED])
    assert not result.passed
    assert result.findings == (CHANGED,)


def test_no_file_is_not_a_pass():
    assert not judge_integrity([], []).passed
