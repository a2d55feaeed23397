"""Faults planted into goref's sources: each must move its hidden states away from the float64 reference's.

They show that the comparison in test_forward.py can fail, and by how much.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from conform.parity.errors import RuntimeDriverError

I2_S = 36
TOKENS = [1, 265, 40, 299, 7]

# name: (changes of the micro model, file, text, replacement)
FAULTS = {
    "rope base": ({}, "internal/model/rope.go", "math.Pow(float64(c.RopeBase),", "math.Pow(2*float64(c.RopeBase),"),
    "rope pairing": ({}, "internal/model/rope.go", "if m.Arch == archBitNet {", "if m.Arch == archLlama {"),
    "kv heads": ({}, "internal/model/attention.go", "head * m.KVHeads / m.Heads", "head % m.KVHeads"),
    "attention scale": ({}, "internal/model/attention.go", "float64(m.HeadDim)))", "float64(2*m.HeadDim)))"),
    "activation": ({}, "internal/model/forward.go", "activate := silu", "activate := squaredRelu"),
    "last layer": ({}, "internal/model/forward.go", "range m.Layers {", "range m.Layers[1:] {"),
    "epsilon": ({"eps": 1e-3}, "internal/model/forward.go", "+float64(eps)", ""),
    "lane order": ({"linear": I2_S}, "internal/quant/i2s.go", "trits[j] = int8(b>>6)", "trits[j] = int8(b&3)"),
    "int8 rounding": ({"linear": I2_S}, "internal/model/matrix.go", "math.RoundToEven(", "math.Floor("),
    "sub-norm": ({"sub_norms": True}, "internal/model/forward.go", "layer.FFNSubNorm != nil", "false"),
    "dropped row": (
        {},
        "internal/model/matrix.go",
        "out[0], out[1], out[2], out[3] =",
        "out[0], out[1], out[3], out[2] =",
    ),
}


@pytest.fixture(scope="module")
def forward():
    """The reference of test_forward.py."""
    spec = importlib.util.spec_from_file_location("goref_forward", Path(__file__).with_name("test_forward.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("changes", "file", "text", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_shows(micro, mutated_goref, run_binary, forward, tmp_path, changes, file, text, fault):
    spec = micro.replace(**changes)
    path = spec.file().write(tmp_path / "m.gguf")
    env = {
        "BITNET_FORCE_TOKENS": ",".join(map(str, TOKENS[1:])),
        "BITNET_DRIFT_TRACE_STEP": str(len(TOKENS) - 1),
        "BITNET_DRIFT_TRACE_VALUES_N": "1",
    }
    mutant = mutated_goref(tmp_path, [(file, text, fault)], tools=["bitnet"])
    ran = run_binary(mutant, "--model", path, "--max-tokens", len(TOKENS), env=env)
    assert ran.code == 0, ran.err
    expected, _ = forward.reference(spec, spec.weights(), TOKENS)
    assert np.isfinite(ran.hidden()).all()
    # A hundred times what test_forward.py accepts, for I2_S as well.
    assert forward.nmse(ran.hidden(), expected) > 1e-4


def test_a_text_that_is_not_there_is_no_mutation(mutated_goref, tmp_path):
    with pytest.raises(RuntimeDriverError, match="0 times"):
        mutated_goref(tmp_path, [("internal/model/forward.go", "no such text", "")])
