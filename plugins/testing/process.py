"""Process: another process, with other hashes of the same strings, gives the same bytes and values."""

import hashlib
import os
import pickle
import subprocess
import sys

from conform.core.errors import PluginError
from conform.core.guard import guarded
from conform.plugins.testing.check import Check, NotApplicable, require
from conform.plugins.testing.subject import Subject

__all__ = ["CHECKS", "fingerprint"]

_SEED = 20
_SECONDS = 300
_CHILD = """
import pickle, sys
from conform.core.guard import described
from conform.plugins.testing.process import fingerprint
from conform.plugins.testing.subject import Subject
try:
    quantizer = pickle.load(sys.stdin.buffer)
except BaseException as error:
    sys.exit(f"not loaded: {described(error)}")
print("\\n" + fingerprint(Subject(quantizer)))
"""


def fingerprint(subject: Subject) -> str:
    """sha256 of the packed bytes and of the decoded values of one tensor of the battery."""
    packed = subject.pack(subject.gaussian(_SEED))
    return hashlib.sha256(packed.tobytes() + subject.decode(packed).tobytes()).hexdigest()


def _fresh_process(subject: Subject) -> str:
    try:
        with guarded("it cannot be sent to another process"):
            pickled = pickle.dumps(subject.untouched)
    except PluginError as reason:
        raise NotApplicable(str(reason)) from reason
    done = _run(pickled)
    if done.returncode and b"not loaded: " in done.stderr:
        raise NotApplicable(f"another process cannot import it: {_last_line(done.stderr)}")
    require(done.returncode == 0, f"it fails in another process: {_last_line(done.stderr)}")
    require(done.stdout.split()[-1:] == [fingerprint(subject).encode()], "another process gives other bytes or values")
    return "the same bytes and values in another process with other string hashes"


def _run(pickled: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHASHSEED": str(_SEED),
    }
    command = [sys.executable, "-c", _CHILD]
    return subprocess.run(command, input=pickled, capture_output=True, timeout=_SECONDS, check=False, env=environment)


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


CHECKS = (Check("fresh-process", "another process gives the same bytes and values", _fresh_process),)
