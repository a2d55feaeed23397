import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy
from conform.trainer.distributed.allocator import keep_freed_memory
kept = keep_freed_memory() if {keep} else True
def touch():
    for _ in range(5):
        numpy.ones(1 << 22)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep):
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_freed_memory_comes_back_without_page_faults():
    kept, few = faults(keep=True)
    if not kept:
        pytest.skip("no glibc here")
    assert few * 4 < faults(keep=False)[1]
