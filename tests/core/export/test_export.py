"""The public API of exports, as a program uses it."""

import numpy as np
import pytest

from conform.contract.inventory import inventory
from conform.core.errors import ExportError, PluginError
from conform.core.export import ExportRequest, export_checkpoint
from conform.core.verify import verify_file

QUANTS = ("f16", "q8_0")


def test_each_quantizer_gives_a_file_that_conforms(registry, checkpoint, tmp_path):
    done = []
    reports = export_checkpoint(checkpoint, ExportRequest(QUANTS, output=f"{tmp_path}/out/"), registry, done.append)
    assert [report.path for report in reports] == [tmp_path / "out" / f"micro-{quant}.gguf" for quant in QUANTS]
    assert all(verify_file(report.path, registry).conforms for report in reports)
    assert done == [tensor.plan.spec.gguf_name for report in reports for tensor in report.tensors]


def test_a_mix_gives_one_file(registry, checkpoint, tmp_path):
    request = ExportRequest(("i2_s", "q8_0"), output=str(tmp_path / "mix.gguf"), target_bpw=8.0)
    (report,) = export_checkpoint(checkpoint, request, registry)
    assert report.path == tmp_path / "mix.gguf"
    assert report.bits_per_weight <= 8.0


def test_a_violated_contract_is_refused_with_every_finding(registry, make_checkpoint, micro, tmp_path):
    kept = [spec for spec in inventory(micro.model) if spec.role != "attn_v"]
    weights = {spec.name: np.ones(spec.shape, np.float32) for spec in kept}
    folder = make_checkpoint(tmp_path / "checkpoint", micro, weights)
    with pytest.raises(ExportError, match="does not meet contract micro; nothing was exported") as error:
        export_checkpoint(folder, ExportRequest(QUANTS), registry)
    for layer in range(micro.model.layers):
        assert f"model.layers.{layer}.self_attn.v_proj.weight" in str(error.value)
    assert not list(folder.glob("*.gguf"))


def test_an_unknown_quantizer_is_named(registry, checkpoint):
    with pytest.raises(PluginError, match="q9_9: no such quantizer"):
        export_checkpoint(checkpoint, ExportRequest(("q9_9",)), registry)
