"""An edit of goref's sources applies exactly once or is an error; planted faults are no part of a build."""

import shutil

import pytest

from conform.parity.errors import RuntimeDriverError
from conform.parity.goref.patch import Edit, patched_sources, read_patch
from conform.parity.goref.toolchain import GOREF_SOURCES, source_files

FORWARD = "internal/model/forward.go"
DIFF = """\
--- a/internal/a.go
+++ b/internal/a.go
@@ -10,3 +10,4 @@ func a() {
 one
-two
+2
+2a
 three
@@ -20 +21 @@
-five
+5

--- a/internal/b.go
+++ b/internal/b.go
@@ -1,3 +1,2 @@
 six

-seven
"""


def test_every_hunk_is_an_edit_of_whole_lines():
    """The space of an empty line may have been cut off."""
    assert read_patch(DIFF, "x.patch", first_line=4) == (
        Edit("internal/a.go", "\none\ntwo\nthree\n", "\none\n2\n2a\nthree\n", "x.patch:6"),
        Edit("internal/a.go", "\nfive\n", "\n5\n", "x.patch:12"),
        Edit("internal/b.go", "\nsix\n\nseven\n", "\nsix\n\n", "x.patch:18"),
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("@@ -10,3", "@@ -10,4", "x.patch:3: the hunk is shorter"),
        ("@@ -10,3", "@@ -10,2", "x.patch:3: the hunk has 3 old and 4 new lines, expected 2 and 4"),
        ("+10,4 @@", "+10,1 @@", "x.patch:3: the hunk has"),
        (" three", "three", "x.patch:3: the hunk is shorter"),
        ("-seven\n", "", "x.patch:15: the hunk"),
        ("+++ b/internal/a.go\n", "", "x.patch:2: found '@@"),
        ("--- a/internal/b.go", "rename to b.go", "x.patch:13: found 'rename"),
        (DIFF, "\n", "no hunk"),
    ],
)
def test_what_is_not_a_unified_diff_is_refused(old, new, says):
    with pytest.raises(RuntimeDriverError, match=says):
        read_patch(DIFF.replace(old, new), "x.patch")


def test_an_edit_may_begin_at_the_first_line_and_lines_are_whole(tmp_path):
    first = Edit("go.mod", "\nmodule conform/goref\n", "\nmodule other\n")
    assert (patched_sources([first], tmp_path / "a") / "go.mod").read_text().startswith("module other\n")
    with pytest.raises(RuntimeDriverError, match="0 times"):
        patched_sources([Edit("go.mod", "\nodule conform/goref\n", "\n")], tmp_path / "b")


@pytest.mark.parametrize(
    ("file", "old", "times"),
    [(FORWARD, "no such text", "0 times"), (FORWARD, "return", r"\d+ times"), ("internal/gone.go", "a", "0 times")],
)
def test_a_text_that_does_not_occur_once_is_an_error(tmp_path, file, old, times):
    with pytest.raises(RuntimeDriverError, match=rf"'{old}'.*{times} in goref's {file}"):
        patched_sources([Edit(file, old, "")], tmp_path)


def test_edits_apply_one_after_another(tmp_path):
    edits = [Edit("go.mod", "module conform/goref", "module first"), Edit("go.mod", "module first", "module second")]
    assert "module second" in (patched_sources(edits, tmp_path) / "go.mod").read_text()


def test_a_copy_holds_what_is_built_and_nothing_else(tmp_path):
    copied = patched_sources([], tmp_path)
    names = [file.relative_to(GOREF_SOURCES) for file in source_files(GOREF_SOURCES)]
    assert sorted(file.relative_to(copied) for file in copied.rglob("*") if file.is_file()) == sorted(names)
    assert not any("_test" in name.name or name.suffix not in {".go", ".mod"} for name in names)


def test_planted_faults_are_no_part_of_the_sources(tmp_path):
    sources = tmp_path / "goref"
    shutil.copytree(GOREF_SOURCES, sources)
    before = source_files(sources)
    shutil.rmtree(sources / "faults")
    assert source_files(sources) == before
