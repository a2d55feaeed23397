import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from conform.core.checkpoint import weight as module
from conform.core.checkpoint.safetensors_header import read_safetensors_header
from conform.core.checkpoint.weight import (
    BlockScaled,
    CodeScale,
    LooseTernary,
    PackedTernary,
    Plain,
    Weight,
    check_finite,
    equal_values,
    read_weight,
)
from conform.core.errors import CheckpointError

RNG = np.random.default_rng(0)
# As transformers packs them, byte (r, c) holds rows r, r + 2, r + 4 and r + 6.
PACKED = np.array([[0b10100001, 0b00011000], [0b10010000, 0b00001010]], np.uint8)
UNPACKED = [[0, -1], [-1, 1], [-1, 1], [-1, 1], [1, 0], [0, -1], [1, -1], [1, -1]]


def f32(*values):
    array = np.array(values, np.float32)
    return "F32", array.shape, array.tobytes()


def read(write_raw, path, raw):
    write_raw(path, raw)
    return read_safetensors_header(path)


def plain(tensor):
    return Weight(tensor, tensor.shape, tensor.dtype, Plain(tensor))


@pytest.fixture
def packed(tmp_path, write_raw):
    def make(codes=PACKED, scale=0.5, use="multiplies"):
        stored = read(
            write_raw, tmp_path / "m.safetensors", {"w": ("U8", codes.shape, codes.tobytes()), "s": f32(scale)}
        )
        shape = (4 * codes.shape[0], codes.shape[1])
        return Weight(stored["w"], shape, "F32", PackedTernary(stored["w"], CodeScale(stored["s"], use)))

    return make


@pytest.fixture
def blocks(tmp_path, write_raw):
    def make(codes, scales, block):
        raw = {"w": ("F8_E4M3", codes.shape, codes.tobytes()), "s": f32(*scales)}
        stored = read(write_raw, tmp_path / "m.safetensors", raw)
        return Weight(stored["w"], codes.shape, "F32", BlockScaled(stored["w"], stored["s"], block))

    return make


def test_four_codes_in_a_byte_are_those_that_transformers_packed(packed):
    assert read_weight(packed()).tolist() == (np.array(UNPACKED) * 0.5).tolist()


def test_a_scale_that_divides_is_inverted_once(packed):
    values = read_weight(packed(scale=3.0, use="divides"))
    assert np.array_equal(np.unique(values), np.array([-1, 0, 1], np.float32) * (np.float32(1) / np.float32(3)))


@given(height=st.integers(1, 5), cols=st.integers(1, 4), start=st.integers(0, 19), count=st.integers(1, 20))
def test_any_rows_are_those_of_the_whole(write_raw, tmp_path_factory, height, cols, start, count):
    codes = RNG.integers(0, 3, (4 * height, cols)).astype(np.uint8)
    bytes_ = sum(codes[n * height : (n + 1) * height] << 2 * n for n in range(4)).astype(np.uint8)
    path = tmp_path_factory.mktemp("rows") / "m.safetensors"
    stored = read(write_raw, path, {"w": ("U8", bytes_.shape, bytes_.tobytes()), "s": f32(2.0)})
    values = PackedTernary(stored["w"], CodeScale(stored["s"], "multiplies"))
    start = min(start, 4 * height - 1)
    stop = min(start + count, 4 * height)
    assert np.array_equal(values.rows(start, stop), (codes[start:stop].astype(np.float32) - 1) * 2)


def test_code_3_is_found_where_it_is(packed):
    codes = PACKED.copy()
    codes[1, 0] |= 0b11000000
    with pytest.raises(CheckpointError, match=r"w: code 3 at \[7, 0\]; expected 0, 1 and 2"):
        check_finite(packed(codes))


@pytest.mark.parametrize("use", ["multiplies", "divides"])
@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_scales_nothing_is_refused(packed, scale, use):
    if (use, scale) == ("divides", np.inf):
        scale = 1e-45  # whose inverse is infinite
    with pytest.raises(CheckpointError, match=r"s: the scale is .*; expected a finite number above zero"):
        read_weight(packed(scale=scale, use=use))


def test_loose_codes_are_multiplied_and_other_values_refused(tmp_path, write_raw):
    stored = read(
        write_raw, tmp_path / "m.safetensors", {"w": f32([1, -1], [0, 1]), "v": f32([1, 0.5]), "s": f32(0.25)}
    )
    scale = CodeScale(stored["s"], "multiplies")
    assert LooseTernary(stored["w"], scale).rows(0, 2).tolist() == [[0.25, -0.25], [0, 0.25]]
    with pytest.raises(CheckpointError, match=r"v: the value at \[0, 1\] is 0.5; expected -1, 0 and 1, because s is"):
        LooseTernary(stored["v"], scale).rows(0, 1)


def test_every_byte_of_fp8_is_what_torch_reads(blocks):
    torch = pytest.importorskip("torch")
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    values = read_weight(blocks(codes, [[1.0]], (128, 128)))
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.nanmax(values) == 448


@given(rows=st.integers(1, 9), cols=st.integers(1, 9), block=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_each_block_has_its_scale(write_raw, tmp_path_factory, rows, cols, block):
    codes = RNG.integers(0, 127, (rows, cols)).astype(np.uint8)
    scales = RNG.random((-(-rows // block[0]), -(-cols // block[1]))).astype(np.float32)
    path = tmp_path_factory.mktemp("blocks") / "m.safetensors"
    stored = read(write_raw, path, {"w": ("F8_E4M3", codes.shape, codes.tobytes()), "s": f32(*scales)})
    unscaled = Plain(stored["w"]).rows(0, rows)
    expected = unscaled * np.kron(scales, np.ones(block, np.float32))[:rows, :cols]
    values = BlockScaled(stored["w"], stored["s"], block)
    for start in range(rows):
        assert np.array_equal(values.rows(start, rows), expected[start:])


def test_a_block_wider_than_the_matrix_takes_no_more_memory_than_it(blocks):
    assert read_weight(blocks(np.full((1, 2), 0x38, np.uint8), [[2.0]], (2**31 - 1, 2**31 - 1))).tolist() == [[2, 2]]


@pytest.mark.parametrize(("code", "scale"), [(0x7F, 1.0), (0x38, np.nan), (0x38, np.inf), (0x7E, 3e38)])
def test_scaled_values_that_are_not_finite_are_found(blocks, code, scale):
    codes = np.full((3, 2), 0x38, np.uint8)
    codes[2, 1] = code
    scales = [[1.0, 1.0], [1.0, scale]]
    with pytest.raises(CheckpointError, match=r"w: the value at \[2, 1\] is (nan|inf) as float32"):
        check_finite(blocks(codes, scales, (2, 1)))


@pytest.mark.parametrize("shape", [(0,), (1 << 62, 0), (0, 1 << 40, 1 << 40)])
def test_a_shape_without_values_is_refused_whatever_its_size(tmp_path, write_raw, shape):
    stored = read(write_raw, tmp_path / "m.safetensors", {"w": ("F32", shape, b"")})
    check_finite(plain(stored["w"]))
    with pytest.raises(CheckpointError, match=r"w: shape \(.*\) holds no values"):
        read_weight(plain(stored["w"]))


def test_double_precision_is_rounded_and_what_float32_cannot_hold_is_found(tmp_path):
    values = np.array([[1 / 3, -2.5], [1e-300, 3e38]])
    save_file({"w": values, "large": np.array([1.0, 1e39])}, tmp_path / "m.safetensors")
    stored = read_safetensors_header(tmp_path / "m.safetensors")
    assert np.array_equal(read_weight(plain(stored["w"])), values.astype(np.float32))
    check_finite(plain(stored["w"]))
    with pytest.raises(CheckpointError, match=r"large: the value at \[1\] is inf as float32"):
        check_finite(plain(stored["large"]))


def test_equal_values_are_equal_in_any_dtype(tmp_path, write_raw):
    values = np.array([[1.5, -2], [0, 0.25]], np.float32)
    arrays = {"f32": values, "f16": values.astype(np.float16), "f64": values.astype(np.float64), "t": values.T.copy()}
    brain = ("BF16", (2, 2), (values.view(np.uint32) >> 16).astype("<u2").tobytes())
    raw = {name: ({4: "F32", 2: "F16", 8: "F64"}[a.itemsize], a.shape, a.tobytes()) for name, a in arrays.items()}
    stored = read(write_raw, tmp_path / "m.safetensors", {**raw, "bf16": brain, "flat": f32(1.5, -2, 0, 0.25)})
    weights = {name: plain(tensor) for name, tensor in stored.items()}
    for name in ("f32", "f16", "f64", "bf16"):
        assert equal_values(weights[name], weights["f32"])
    assert not equal_values(weights["t"], weights["f32"])
    assert not equal_values(weights["flat"], weights["f32"])


@pytest.mark.parametrize("piece", [1, 5, 6, 7, 100])
def test_pieces_of_any_size_make_the_same_whole(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(module, "_PIECE", piece)
    values = RNG.standard_normal((7, 3)).astype(np.float32)
    save_file({"w": values, "v": values[:, 0].copy(), "s": np.array(2.5, np.float32)}, tmp_path / "m.safetensors")
    stored = read_safetensors_header(tmp_path / "m.safetensors")
    assert np.array_equal(read_weight(plain(stored["w"])), values)
    assert np.array_equal(read_weight(plain(stored["v"])), values[:, 0])
    assert read_weight(plain(stored["s"])) == np.float32(2.5)
    other = values.copy()
    other[-1, -1] = np.inf
    save_file({"w": other}, tmp_path / "n.safetensors")
    changed = plain(read_safetensors_header(tmp_path / "n.safetensors")["w"])
    assert not equal_values(changed, plain(stored["w"]))
    with pytest.raises(CheckpointError, match=r"\[6, 2\] is inf"):
        check_finite(changed)
