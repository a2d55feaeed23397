import numpy as np
import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import ExportError, GGUFError, PlanError
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.i2_s.format import LAYOUTS
from conform.core.i2_s.repack import SourceLayout, find_layout, repack
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify import verify_file

NAMES = {"x86": "i2_s", "arm": "i2_s_arm", "rows": "i2_s_rows"}


@pytest.fixture
def export(registry, tmp_path, ternary_checkpoint, micro_ternary):
    """A layout → a file in it, written by the quantizer of that layout."""

    def run(layout, quant=None):
        opened = open_checkpoint(ternary_checkpoint)
        vocabulary = read_vocabulary(opened.tokenizer_path)
        name = quant or NAMES[layout]
        return run_export(
            plan_export(opened, micro_ternary, vocabulary, registry, name, tmp_path / f"{name}.gguf")
        ).path

    return run


def without_key(path):
    """The file as a foreign tool would write it: nothing tells its layout."""
    path.write_bytes(path.read_bytes().replace(b"conform.i2_s.layout", b"foreign.i2_s.layout"))
    return read_gguf(path)


def foreign(path):
    """The file as another tool would write it: no key says that it is conform's."""
    path.write_bytes(path.read_bytes().replace(b"conform.", b"foreign."))
    return read_gguf(path)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_repacked_file_is_the_one_exported_in_that_layout(export, registry, tmp_path, source, layout):
    file = read_gguf(export(source))
    found = find_layout(file, None, None)
    assert (found.layout, found.known_by) == (source, "the file's key")
    report = repack(file, found, layout, tmp_path / "out.gguf")
    expected, written = read_gguf(export(layout)), read_gguf(report.path)
    assert report.tensors == 14
    assert written.metadata["conform.i2_s.layout"] == layout
    for name in expected.tensors:
        assert np.array_equal(expected.packed(name), written.packed(name))
    assert verify_file(report.path, registry).findings == ()


def test_a_checkpoint_proves_the_layout(export, ternary_checkpoint):
    for layout in LAYOUTS:
        found = find_layout(without_key(export(layout)), None, open_checkpoint(ternary_checkpoint))
        assert (found.layout, found.known_by) == (layout, "the checkpoint")


def test_another_checkpoint_proves_nothing(export, make_checkpoint, micro_ternary, tmp_path):
    folder = make_checkpoint(tmp_path / "other", micro_ternary, seed=1)
    with pytest.raises(PlanError, match=r"no i2_s tensor has the codes of .* in any layout"):
        find_layout(without_key(export("x86")), None, open_checkpoint(folder))


def test_where_nothing_tells_the_user_is_asked(export):
    with pytest.raises(PlanError, match=r"nothing in the file shows .* --from x86\|arm\|rows"):
        find_layout(without_key(export("x86")), None, None)
    assert find_layout(without_key(export("x86")), "x86", None).known_by == "the user"


def test_the_user_cannot_contradict_the_file(export):
    with pytest.raises(PlanError, match="--from arm contradicts the file"):
        find_layout(read_gguf(export("x86")), "arm", None)


def test_a_file_without_i2_s_is_refused(export, tmp_path):
    file = read_gguf(export("x86", "f16"))
    with pytest.raises(PlanError, match="has no i2_s tensor"):
        repack(file, SourceLayout("x86", "the user"), "arm", tmp_path / "out.gguf")


@pytest.mark.parametrize("asked", [None, "x86"])
def test_no_layout_is_sought_where_there_is_no_i2_s(export, asked):
    with pytest.raises(PlanError, match="has no i2_s tensor, so there is nothing to repack"):
        find_layout(read_gguf(export("x86", "f16")), asked, None)


def test_a_damaged_file_is_refused_and_nothing_is_written(export, tmp_path):
    path = export("x86")
    start = read_gguf(path).tensors["blk.0.ffn_up.weight"].offset
    with path.open("r+b") as file:
        file.seek(start + 100)
        file.write(b"\xff")
    source = read_gguf(path)
    with pytest.raises(GGUFError, match=r"blk\.0\.ffn_up\.weight: holds code 3"):
        repack(source, find_layout(source, None, None), "arm", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_a_file_that_was_changed_is_not_sealed_anew(export, tmp_path):
    path = export("x86")
    with path.open("r+b") as file:
        file.seek(read_gguf(path).tensors["token_embd.weight"].offset)
        file.write(b"\0")
    source = read_gguf(path)
    with pytest.raises(GGUFError, match=r"is not what was exported, and would be sealed anew: token_embd\.weight"):
        repack(source, find_layout(source, None, None), "arm", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_foreign_file_is_sealed(export, registry, tmp_path, micro_ternary):
    source = foreign(export("x86"))
    report = repack(source, find_layout(source, "x86", None), "arm", tmp_path / "out.gguf")
    assert verify_file(report.path, registry, micro_ternary).conforms


def test_a_truncated_file_is_refused(export, tmp_path):
    path = export("x86")
    path.write_bytes(path.read_bytes()[:-5000])
    file = read_gguf(path)
    with pytest.raises((GGUFError, ExportError)):
        repack(file, find_layout(file, None, None), "arm", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_undefined_bytes_behind_the_scale_become_zeros(export, tmp_path):
    path = export("x86")
    info = read_gguf(path).tensors["blk.0.attn_q.weight"]
    with path.open("r+b") as file:
        file.seek(info.offset + info.nbytes - 28)
        file.write(b"\x55" * 28)
    source = foreign(path)
    written = read_gguf(repack(source, find_layout(source, "x86", None), "x86", tmp_path / "out.gguf").path)
    assert not written.packed("blk.0.attn_q.weight")[-28:].any()
    assert np.array_equal(written.packed("blk.0.attn_q.weight")[:-28], source.packed("blk.0.attn_q.weight")[:-28])


def test_a_size_that_the_file_does_not_hold_is_refused_before_memory_is_taken(export, tmp_path):
    path = export("x86")
    content = bytearray(path.read_bytes())
    start = content.rindex(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4
    content[start + 8 : start + 16] = (1 << 31).to_bytes(8, "little")  # rows
    path.write_bytes(content)
    file = read_gguf(path)
    with pytest.raises(GGUFError, match=r"blk\.0\.attn_q\.weight: its data end at byte"):
        repack(file, SourceLayout("x86", "the user"), "arm", tmp_path / "out.gguf")
