import json
import subprocess
import sys
from pathlib import Path


def test_fsdp2_on_one_process_is_the_plain_module_bit_for_bit(contracts, environment):
    script = str(Path(__file__).with_name("fsdp_is_plain.py"))
    paths = [str(contracts / f"{name}.toml") for name in ("dense", "ternary", "bitnet")]
    done = subprocess.run(
        [sys.executable, script, *paths], check=False, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curves = json.loads(done.stdout)
    assert len(curves) == 6
    for name, (plain, sharded) in curves.items():
        assert plain == sharded, name
