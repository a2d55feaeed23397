import json

import pytest

from conform.core.errors import PluginError
from conform.plugins.host import load_registry
from conform.plugins.testing import Certificate, certify, make_receipt, receipt_findings
from conform.plugins.testing.check import CheckResult
from conform.plugins.testing.receipt import source_hashes


@pytest.fixture
def installed(site_packages, plain_source):
    site_packages.install("plain-plugin", plain_source, version="1.2")
    registry = load_registry()
    return site_packages, registry.quantizers["plain"], registry.plugin("plain")


def certificate(outcome="pass"):
    return Certificate("plain", (CheckResult("zeros", "zeros stay zero", outcome, "as measured"),))


def test_a_receipt_names_version_layout_and_files(installed):
    _, quantizer, plugin = installed
    receipt = make_receipt(certificate(), quantizer, plugin)
    assert receipt["certified"]
    assert (receipt["plugin"]["distribution"], receipt["plugin"]["version"]) == ("plain-plugin", "1.2")
    assert receipt["layout"] == {"ggml_type": 4242, "block_size": 1, "variant": ""}
    assert len(receipt["plugin"]["files"]) == 1
    assert any(name.endswith("battery.py") for name in receipt["battery"]["files"])


def test_a_receipt_survives_json_and_holds_for_what_it_was_made_of(installed):
    _, quantizer, plugin = installed
    receipt = json.loads(json.dumps(make_receipt(certificate(), quantizer, plugin)))
    assert receipt_findings(receipt, plugin) == []


def test_a_changed_file_voids_the_receipt(installed):
    site, quantizer, plugin = installed
    receipt = make_receipt(certificate(), quantizer, plugin)
    module = site.folder / f"{plugin.module}.py"
    module.write_text(module.read_text() + "# changed\n")
    (finding,) = receipt_findings(receipt, plugin)
    assert module.name in finding.where


def test_another_version_voids_the_receipt(installed):
    site, quantizer, plugin = installed
    receipt = make_receipt(certificate(), quantizer, plugin)
    next(site.folder.glob("*.dist-info")).joinpath("METADATA").write_text("Name: plain-plugin\nVersion: 1.3\n")
    (finding,) = receipt_findings(receipt, load_registry().plugin("plain"))
    assert (finding.expected, finding.found) == ("plain-plugin 1.2", "plain-plugin 1.3")


@pytest.mark.parametrize("change", [{"certified": True}, {"quantizer": "other"}, {"format": 2}, {"checks": []}])
def test_a_receipt_that_was_edited_says_nothing(installed, change):
    _, quantizer, plugin = installed
    receipt = make_receipt(certificate("fail"), quantizer, plugin)
    assert receipt_findings({**receipt, **change}, plugin)[0].found == "another format or digest"


def test_a_failed_certification_is_a_finding(installed):
    _, quantizer, plugin = installed
    (finding,) = receipt_findings(make_receipt(certificate("fail"), quantizer, plugin), plugin)
    assert finding.found == "not certified"


def test_all_files_of_a_package_are_hashed():
    files = source_hashes("conform.plugins.quantizers.floats")
    assert {"plugins/quantizers/floats.py", "plugins/quantizers/blocks.py", "plugins/host.py"} <= files.keys()
    assert not any("__pycache__" in name for name in files)


def test_a_module_without_source_cannot_be_bound():
    with pytest.raises(PluginError, match="no source file"):
        source_hashes("sys")


def test_the_certificate_of_an_installed_plugin_says_where_it_fails(installed):
    _, quantizer, _ = installed
    failed = {failure.check for failure in certify(quantizer).failures}
    assert "not-finite" in failed
