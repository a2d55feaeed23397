import json

import pytest
from click.testing import CliRunner

from conform.core.errors import ConformError, InputError, PluginError
from conform.plugins.cli.plugins import plugins


def run(*arguments):
    return CliRunner().invoke(plugins, arguments, standalone_mode=False)


def succeeded(result):
    assert result.exception is None, result.exception
    return result.return_value == 0


def test_the_list_names_plugins_versions_hooks_and_quantizers():
    result = run()
    assert succeeded(result)
    for part in ("gguf-conform:plugins.quantizers.i2_s", "conform_quantizers", "i2_s_arm"):
        assert part in result.output


def test_the_list_as_json():
    report = json.loads(run("--json=-").output)
    assert report["failures"] == []
    by_name = {plugin["plugin"]: plugin for plugin in report["plugins"]}
    assert by_name["gguf-conform:plugins.quantizers.tq"]["quantizers"] == ["tq1_0", "tq2_0"]


def test_a_plugin_that_failed_is_listed_with_its_reason_and_exit_status_1(site_packages):
    site_packages.install("broken", "raise RuntimeError('no GPU')\n", version="0.3")
    result = run()
    assert result.return_value == 1
    for part in ("broken:main", "broken 0.3", "RuntimeError: no GPU"):
        assert part in result.output


def test_certify_prints_every_check_and_the_verdict():
    result = run("certify", "q8_0")
    assert succeeded(result)
    assert "certified; receipt" in result.output
    assert "last-values" in result.output


def test_certify_writes_a_receipt_that_holds(tmp_path):
    receipt = tmp_path / "q8_0.json"
    assert succeeded(run("certify", "q8_0", "--json", str(receipt)))
    assert json.loads(receipt.read_text())["quantizer"] == "q8_0"
    checked = run("receipt", str(receipt))
    assert succeeded(checked)
    assert "is what was certified" in checked.output


def test_certify_of_a_quantizer_that_breaks_a_promise_has_exit_status_1(site_packages, plain_source):
    site_packages.install("careless", plain_source)
    result = run("certify", "plain")
    assert result.return_value == 1
    assert "not certified" in result.output


def test_a_receipt_of_another_version_has_exit_status_1(tmp_path, site_packages, plain_source):
    site_packages.install("careless", plain_source)
    path = tmp_path / "plain.json"
    assert run("certify", "plain", "--json", str(path)).return_value == 1
    checked = run("receipt", str(path))
    assert checked.return_value == 1
    assert "not certified" in checked.output


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"quantizer": 3}', "\x00\x01"])
def test_a_file_that_is_no_receipt_is_refused(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ConformError, match="not a receipt"):
        raise run("receipt", str(path)).exception


def test_a_receipt_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        raise run("receipt", str(tmp_path / "none.json")).exception


def test_an_unknown_quantizer_is_refused():
    with pytest.raises(PluginError, match="iq9: no such quantizer"):
        raise run("certify", "iq9").exception
