import subprocess
import sys

import pytest

from conform.core.errors import PluginError
from conform.plugins.host import load_registry

from .conftest import PLAIN, PREAMBLE

SHIPPED = {"f32", "f16", "bf16", "q8_0", "i2_s", "i2_s_arm", "i2_s_rows", "tq1_0", "tq2_0"}


def only_failure(registry):
    (failure,) = registry.failures
    return failure


def test_built_in_plugins_load_without_failure():
    registry = load_registry()
    assert set(registry.quantizers) >= SHIPPED
    assert registry.failures == ()
    assert all(plugin.distribution == "gguf-conform" for plugin in registry.plugins)


def test_loading_imports_nothing_heavy():
    code = """
import sys
from conform.plugins.host import load_registry
load_registry()
print(sorted({"torch", "numba", "sentencepiece", "gguf", "pyarrow"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_installed_plugin_is_registered_after_the_built_ins_with_its_owner(site_packages):
    site_packages.install("other-quants", PLAIN, version="2.5")
    registry = load_registry()
    assert registry.plugins[-1].name == "other-quants:main"
    assert list(registry.quantizers)[-1] == "plain"
    assert registry.owner("plain") == "other-quants 2.5"
    assert registry.decoder(4242).name == "plain"


def test_plugins_are_registered_in_sorted_order_whatever_the_order_on_the_path(site_packages):
    for name in ("zz", "aa", "mm"):
        site_packages.install(name, PLAIN.replace('"plain"', f'"{name}_plain"'))
    assert [plugin.name for plugin in load_registry().plugins[-3:]] == ["aa:main", "mm:main", "zz:main"]


def test_two_entry_points_of_one_name_from_two_distributions_both_load(site_packages):
    site_packages.install("aa", PLAIN.replace('"plain"', '"a_plain"'))
    site_packages.install("bb", PLAIN.replace('"plain"', '"b_plain"'))
    assert {"a_plain", "b_plain"} <= set(load_registry().quantizers)


def test_an_object_may_be_the_plugin(site_packages):
    source = PREAMBLE + (
        "class Plugin:\n    CONFORM_PLUGIN_API = 1\n\n    @hookimpl\n    def conform_quantizers(self):\n"
        "        return [Plain()]\n\n\nplugin = Plugin()\n"
    )
    module = site_packages.install("objects", source, target="PLACEHOLDER")
    entries = next(site_packages.folder.glob("*.dist-info")) / "entry_points.txt"
    entries.write_text(entries.read_text().replace("PLACEHOLDER", f"{module}:plugin"))
    assert "plain" in load_registry().quantizers


def test_a_clash_with_a_built_in_names_both_owners_and_the_way_out(site_packages):
    site_packages.install("rival", PLAIN.replace('"plain"', '"q8_0"'), version="3.1")
    with pytest.raises(PluginError) as caught:
        load_registry()
    for part in ("q8_0", "gguf-conform", "rival 3.1", "CONFORM_DISABLE_PLUGINS=rival:main"):
        assert part in str(caught.value)


def test_a_clash_between_two_installed_plugins_is_an_error(site_packages):
    site_packages.install("aa", PLAIN)
    site_packages.install("bb", PLAIN)
    with pytest.raises(PluginError, match=r"plain is offered by plugin aa:main .* and by plugin bb:main"):
        load_registry()


@pytest.mark.parametrize("disabled", ["*", "rival", "rival:main", "other, rival"])
def test_a_disabled_plugin_is_not_loaded(site_packages, monkeypatch, disabled):
    site_packages.install("rival", PLAIN.replace('"plain"', '"q8_0"'))
    monkeypatch.setenv("CONFORM_DISABLE_PLUGINS", disabled)
    registry = load_registry()
    assert registry.owner("q8_0").startswith("gguf-conform")
    assert not registry.failures


BROKEN = {
    "syntax": ("def broken(:\n", "SyntaxError"),
    "import": ("import no_such_module_at_all\n", "no_such_module_at_all"),
    "exit": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "base exception": ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError"),
    "generator exit": (PLAIN.replace("return [Plain()]", "raise GeneratorExit"), "GeneratorExit"),
    "no API": (PLAIN.replace("CONFORM_PLUGIN_API = 1", ""), "CONFORM_PLUGIN_API is None"),
    "other API": (PLAIN.replace("CONFORM_PLUGIN_API = 1", "CONFORM_PLUGIN_API = 2"), "CONFORM_PLUGIN_API is 2"),
    "misspelt hook": (
        PLAIN.replace("def conform_quantizers", "def conform_quantisers"),
        "unknown hook 'conform_quantisers'",
    ),
    "no hook": (PREAMBLE, "implements no hook"),
    "argument": (PLAIN.replace("def conform_quantizers()", "def conform_quantizers(model)"), "model"),
    "wrapper": (
        PREAMBLE + "@hookimpl(wrapper=True)\ndef conform_quantizers():\n    yield\n    return []\n",
        "hook wrapper",
    ),
    "raises": (PLAIN.replace("return [Plain()]", "raise RuntimeError('no licence')"), "RuntimeError: no licence"),
    "None": (PLAIN.replace("return [Plain()]", "return None"), "returned NoneType"),
    "class": (PLAIN.replace("[Plain()]", "[Plain]"), "Plain is a class"),
    "twice": (PLAIN.replace("[Plain()]", "[Plain(), Plain()]"), "offers plain twice"),
    "name": (PLAIN.replace('"plain"', '"Q4*"'), "named 'Q4*'"),
    "no name": (PLAIN.replace('    name: ClassVar[str] = "plain"\n', ""), "named None"),
    "no dequantize": (PLAIN.replace("def dequantize", "def decode"), "has no dequantize"),
    "layout": (PLAIN.replace("Layout(4242, 1)", '"4242"'), "expected a conform.plugins.Layout"),
    "type id": (PLAIN.replace("Layout(4242, 1)", "Layout(-1, 1)"), "32-bit type id"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_plugin_that_fails_is_recorded_and_the_others_load(site_packages, source, reason):
    site_packages.install("broken", source, version="0.1")
    site_packages.install("sound", PLAIN.replace('"plain"', '"sound"'))
    registry = load_registry()
    failure = only_failure(registry)
    assert (failure.plugin, failure.owner) == ("broken:main", "broken 0.1")
    assert reason in failure.reason
    assert set(registry.quantizers) >= SHIPPED | {"sound"}
    assert "plain" not in registry.quantizers


def test_a_missing_module_is_recorded(site_packages):
    site_packages.install("broken", "", target="no_such_module_of_broken")
    assert "no_such_module_of_broken" in only_failure(load_registry()).reason


def test_one_module_under_two_entry_points_is_recorded(site_packages):
    site_packages.install("twice", PLAIN, entry="a")
    site_packages.install("twice", PLAIN, entry="b")
    registry = load_registry()
    assert only_failure(registry).plugin == "twice:b"
    assert "plain" in registry.quantizers


def test_metadata_writers_and_drivers_are_checked_too(site_packages):
    site_packages.install(
        "writers",
        PREAMBLE + "@hookimpl\ndef conform_metadata_writers():\n    return [Plain()]\n",
    )
    assert "plain has no keys" in only_failure(load_registry()).reason


@pytest.mark.parametrize("value", ["two words", "", "module:", "1module", "no_such_module_at_all:plugin"])
def test_an_entry_point_that_names_no_module_is_recorded(site_packages, value):
    site_packages.install("damaged", "", target=value)
    failure = only_failure(load_registry())
    assert (failure.plugin, failure.owner) == ("damaged:main", "damaged 1.0")


def test_a_distribution_without_metadata_is_unknown_but_recorded(site_packages):
    site_packages.install("damaged", "x = 1\n")
    next(site_packages.folder.glob("*.dist-info")).joinpath("METADATA").unlink()
    assert only_failure(load_registry()).owner == "unknown unknown"
