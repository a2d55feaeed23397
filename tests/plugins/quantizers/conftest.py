import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def with_oldest_instructions(tmp_path):
    """with_oldest_instructions("m") holds m.digests(), kernels compiled for the oldest 64-bit processors, to m.DIGESTS.

    They have other vectors then; the bytes must be the same.
    """

    def check(module):
        folder = str(Path(__file__).parent)
        script = f"import sys; sys.path.insert(0, {folder!r}); import {module} as t; assert t.digests() == t.DIGESTS"
        environment = {
            **os.environ,
            "NUMBA_CPU_NAME": "x86-64" if os.uname().machine == "x86_64" else "generic",
            "NUMBA_CPU_FEATURES": "",
            "NUMBA_CACHE_DIR": str(tmp_path),
        }
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)

    return check
