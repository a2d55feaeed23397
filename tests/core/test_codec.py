import asyncio
import ctypes
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from conform.core.codec import Codec
from conform.core.errors import PluginError, QuantizeError
from conform.core.quantizer import Layout

SHAPE = (4, 32)


class Plain:
    """Float32 as it is; each test breaks one thing of it."""

    name = "plain"
    layout = Layout(9000, 1)
    needs_importance = False

    def nbytes(self, shape):
        return 4 * int(np.prod(shape))

    def quantize(self, values, importance=None):
        return values.view(np.uint8).ravel().copy()

    def dequantize(self, packed, shape):
        return packed.view(np.float32).reshape(shape)


def values():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def quantize(quantizer):
    return Codec(quantizer, "acme 1.0").pack("blk.0.attn_q.weight", values())


def broken(**methods):
    return type("Broken", (Plain,), {name: staticmethod(method) for name, method in methods.items()})()


def fail(*_):
    raise ZeroDivisionError("oops")


def sort_in_place(values, importance=None):
    packed = values.view(np.uint8).ravel().copy()
    values.ravel().sort()
    return packed


def sort_behind_the_guard(values, importance=None):
    packed = values.view(np.uint8).ravel().copy()
    memory = (ctypes.c_float * values.size).from_address(values.ctypes.data)
    np.frombuffer(memory, np.float32).sort()
    return packed


def make_writeable(values, importance=None):
    values.flags.writeable = True


def scale_importance(values, importance=None):
    importance *= 2


def exit_in_peace(*_):
    sys.exit(0)


def cancel(*_):
    raise asyncio.CancelledError


class _SpeechlessError(Exception):
    def __str__(self):
        raise ValueError("no words")


def fail_speechlessly(*_):
    raise _SpeechlessError


def clip_in_place(values, importance=None):
    packed = values.view(np.uint8).ravel().copy()
    np.clip(values, -1, 1, out=values)
    return packed


def test_an_honest_quantizer_passes():
    packed = quantize(Plain())
    assert np.array_equal(Codec(Plain(), "acme 1.0").unpack("t", packed, SHAPE), values())


@pytest.mark.parametrize(
    ("quantize_method", "message"),
    [
        (fail, "failed: ZeroDivisionError: oops"),
        (exit_in_peace, "failed: SystemExit: 0"),
        (cancel, "failed: CancelledError"),
        (fail_speechlessly, "failed: _SpeechlessError: no message"),
        (sort_in_place, "failed: ValueError: .* read-only"),
        (clip_in_place, "failed: ValueError: .* read-only"),
        (make_writeable, "failed: ValueError: cannot set WRITEABLE flag"),
        (sort_behind_the_guard, "changed its input"),
        (lambda v, i=None: bytes(512), "returned bytes; expected a vector of uint8"),
        (lambda v, i=None: np.zeros(512, np.int8), "returned int8 of shape"),
        (lambda v, i=None: np.zeros((4, 128), np.uint8), r"returned uint8 of shape \(4, 128\)"),
        (lambda v, i=None: np.zeros(511, np.uint8), "returned 511 bytes, though it had promised 512"),
    ],
)
def test_a_broken_quantizer_is_named_with_its_owner_and_tensor(quantize_method, message):
    with pytest.raises(PluginError, match=message) as error:
        quantize(broken(quantize=quantize_method))
    assert str(error.value).startswith("blk.0.attn_q.weight: quantizer plain of acme 1.0 ")


def test_a_refusal_keeps_its_words_and_gains_the_tensors_name():
    def refuse(values, importance=None):
        raise QuantizeError("row 1 is too wild")

    with pytest.raises(QuantizeError, match=r"^blk\.0\.attn_q\.weight: row 1 is too wild$"):
        quantize(broken(quantize=refuse))


@pytest.mark.parametrize(
    ("dequantize_method", "message"),
    [
        (fail, "failed to decode: ZeroDivisionError"),
        (exit_in_peace, "failed to decode: SystemExit: 0"),
        (lambda p, s: p.sort(), "failed to decode: ValueError: .* read-only"),
        (lambda p, s: p, "decoded to something other than float32"),
        (lambda p, s: np.zeros(SHAPE, np.float64), "decoded to something other than float32"),
        (lambda p, s: np.zeros(128, np.float32), "decoded to something other than float32"),
    ],
)
def test_a_broken_decoder_is_named(dequantize_method, message):
    with pytest.raises(PluginError, match=message):
        Codec(broken(dequantize=dequantize_method), "acme 1.0").unpack("t", quantize(Plain()), SHAPE)


@pytest.mark.parametrize(
    ("nbytes", "message"),
    [
        (fail, "failed to size shape .* ZeroDivisionError: oops"),
        (exit_in_peace, "failed to size shape .* SystemExit: 0"),
        (lambda s: 0, "promises 0 bytes for shape"),
        (lambda s: 512.0, "promises 512.0 bytes for shape"),
    ],
)
def test_a_broken_size_is_named_with_its_owner(nbytes, message):
    codec = Codec(broken(nbytes=nbytes), "acme 1.0")
    for ask in (lambda: codec.nbytes(SHAPE), lambda: codec.pack("t", values())):
        with pytest.raises(PluginError, match=f"^quantizer plain of acme 1.0 {message}"):
            ask()


def test_a_quantizer_cannot_change_the_importance():
    codec, importance = Codec(broken(quantize=scale_importance), "acme 1.0"), np.ones(32, np.float32)
    with pytest.raises(PluginError, match="read-only"):
        codec.pack("t", values(), importance)
    assert importance.sum() == 32


def test_what_is_decoded_can_be_changed_and_shares_nothing():
    packed = quantize(Plain())
    Codec(Plain(), "acme 1.0").unpack("t", packed, SHAPE)[:] = 0
    assert packed.any()


def test_the_users_interruption_passes():
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(broken(quantize=interrupt))


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (exit_in_peace, "failed to be tuned: SystemExit: 0"),
        (lambda: None, "changed its name or its layout"),
        (lambda: broken(name=lambda: "other"), "changed its name or its layout"),
    ],
)
def test_a_quantizer_that_cannot_be_tuned_is_named(tune, message):
    with pytest.raises(PluginError, match=f"^quantizer plain of acme 1.0 {message}"):
        Codec(Plain(), "acme 1.0").tuned(tune)


def test_a_type_that_is_known_has_the_size_of_that_type():
    quantizer = type("Q8", (Plain,), {"layout": Layout(8, 32)})()
    with pytest.raises(PluginError, match=r"promises 512 bytes for shape \(4, 32\), where its tensor type takes 136"):
        Codec(quantizer, "acme 1.0").nbytes(SHAPE)


def test_nothing_else_calls_a_quantizer():
    root = Path(__file__).parents[2]
    callers = {
        path.relative_to(root).as_posix()
        for folder in ("core", "parity", "trainer")
        for path in (root / folder).rglob("*.py")
        if re.search(r"\.(de)?quantize\(", path.read_text())
    }
    assert callers == {"core/codec.py"}
