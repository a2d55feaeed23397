import pytest

from conform.core.errors import PluginError
from conform.plugins.host import load_registry
from conform.plugins.registry import Failure, Registry


def test_unknown_quantizer_lists_what_exists_and_what_failed():
    registry = Registry(load_registry().quantizers, failures=(Failure("iq:main", "iq 1.0", "ImportError: libiq"),))
    with pytest.raises(PluginError) as caught:
        registry.codec("q8_O")
    for part in (
        "q8_O: no such quantizer",
        "did you mean q8_0?",
        "bf16",
        "iq:main (iq 1.0) failed: ImportError: libiq",
    ):
        assert part in str(caught.value)


def test_an_empty_registry_says_so():
    with pytest.raises(PluginError, match="there are none"):
        Registry({}).codec("f16")


def test_globs_select_in_order_of_registration():
    assert [q.name for q in load_registry().match("tq?_0")] == ["tq1_0", "tq2_0"]
    assert [q.name for q in load_registry().match("*f16")] == ["f16", "bf16"]


def test_a_plain_name_matches_itself_only():
    assert [q.name for q in load_registry().match("i2_s")] == ["i2_s"]


@pytest.mark.parametrize("pattern", ["zz*", "", "F16", "[!a-z]9*"])
def test_a_pattern_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(PluginError, match="there are f32"):
        load_registry().match(pattern)


def test_decoder_is_found_by_layout_and_variant():
    registry = load_registry()
    assert registry.decoder(36).name == "i2_s"
    assert registry.decoder(36, "arm").name == "i2_s_arm"


@pytest.mark.parametrize(("ggml_type", "variant"), [(999, ""), (36, "gpu")])
def test_decoder_of_an_unknown_layout_is_an_error(ggml_type, variant):
    with pytest.raises(PluginError, match=f"GGML type {ggml_type}"):
        load_registry().decoder(ggml_type, variant)


def test_owner_is_asked_for_by_kind():
    registry = load_registry()
    assert registry.owner("f16").startswith("gguf-conform ")
    with pytest.raises(PluginError, match="no plugin offers a runtime driver"):
        registry.owner("f16", "runtime driver")
