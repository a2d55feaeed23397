import pytest

from conform.core.errors import PluginError
from conform.core.gguf.types import ValueType
from conform.core.metadata import KeyValue, OwnedWriter, boolean, f32, gather_metadata, string, u32


class Writer:
    def __init__(self, keys):
        self._keys = keys

    def keys(self, facts):
        if isinstance(self._keys, BaseException):
            raise self._keys
        return self._keys


def gather(**writers):
    return gather_metadata({name: OwnedWriter(Writer(keys), "acme 1.0") for name, keys in writers.items()}, facts=None)


def test_keys_come_in_the_order_of_the_writers():
    keys = gather(z={"b": u32(1), "a": u32(2)}, a={"c": boolean(True)})
    assert list(keys) == ["b", "a", "c"]


def test_two_writers_may_agree():
    assert gather(one={"k": u32(1)}, two={"k": u32(1)}) == {"k": u32(1)}


@pytest.mark.parametrize(
    ("writers", "message"),
    [
        ({"one": {"k": u32(1)}, "two": {"k": u32(2)}}, "one and two set k to different values"),
        ({"one": {"k": u32(1)}, "two": {"k": string("1")}}, "one and two set k to different values"),
        ({"one": ValueError("boom")}, "metadata writer one of acme 1.0 failed: ValueError: boom"),
        ({"one": SystemExit(0)}, "metadata writer one of acme 1.0 failed: SystemExit: 0"),
        ({"one": GeneratorExit()}, "metadata writer one of acme 1.0 failed: GeneratorExit"),
        ({"one": {"k": 5}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": f32(float("nan"))}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(99, 1)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.UINT32, None)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.ARRAY, [1], ValueType.UINT32)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.UINT32, (1,), ValueType.UINT32)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.ARRAY, (), ValueType.ARRAY)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.UINT32, (1,))}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": KeyValue(ValueType.ARRAY, 1)}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": u32("1")}}, "one of acme 1.0: k has no usable value"),
        ({"one": {"k": string(1)}}, "one of acme 1.0: k has no usable value"),
        (
            {"one": {"k": KeyValue(ValueType.ARRAY, (1, "2"), ValueType.INT32)}},
            "one of acme 1.0: k has no usable value",
        ),
        ({"one": {"": u32(1)}}, "'' is not a metadata key"),
        ({"one": {"a\n": u32(1)}}, "is not a metadata key"),
        ({"one": {5: u32(1)}}, "5 is not a metadata key"),
        ({"one": 7}, "one of acme 1.0 failed: TypeError"),
    ],
)
def test_a_writer_that_breaks_the_protocol_is_named(writers, message):
    with pytest.raises(PluginError, match=message):
        gather(**writers)


def test_values_know_their_types():
    assert {value.kind.name for value in (u32(1), f32(1), boolean(False), string(""))} == {
        "UINT32",
        "FLOAT32",
        "BOOL",
        "STRING",
    }
    assert u32(1) == KeyValue(u32(1).kind, 1)
