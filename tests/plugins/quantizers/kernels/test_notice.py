import subprocess
import sys

CODE = """
import numpy as np
from conform.plugins.host import load_registry
from conform.plugins.quantizers.kernels.notice import on_compile
on_compile(print)
load_registry().quantizers["iq4_nl"].quantize(np.ones((2, 64), np.float32))
"""


def test_a_compilation_is_announced_once_and_a_kept_kernel_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    said = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True) for _ in range(2)]
    cold, warm = (run.stdout.split() for run in said)
    assert "iq4" in cold
    assert len(cold) == len(set(cold))
    assert warm == []
