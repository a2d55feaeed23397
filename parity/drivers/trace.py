"""Trace: the lines that a bitnet-go runtime writes to stderr about one decode step, read back.

drift_trace step=<s> pos=<p> token=<input id> layers=<n>
drift_trace values layer=<l> name=<x> values=<csv>
drift_trace output_norm_values=<csv>
drift_trace logits step=<s> argmax_token=<id> argmax_logit=<x>
debug logits.stage.output_norm token=<id> logit=<x> …
"""

import re

import numpy as np

from conform.core.quantizer import Float32
from conform.core.runtime import RuntimeFault, Step

__all__ = ["read_debug_logits", "read_step"]

_STEP = re.compile(rb"drift_trace step=(\d+) pos=(\d+) token=(\d+) layers=(\d+)\s*$", re.MULTILINE)
_ARGMAX = re.compile(rb"drift_trace logits step=(\d+) argmax_token=(\d+) argmax_logit=(\S+)\s*$", re.MULTILINE)
_HIDDEN = re.compile(rb"drift_trace output_norm_values=(\S*)\s*$", re.MULTILINE)
_VALUES = re.compile(rb"drift_trace values layer=(\d+) name=(\w+) values=(\S*)\s*$", re.MULTILINE)
_LOGITS = re.compile(rb"debug logits\.stage\.output_norm (.*)$", re.MULTILINE)
_LOGIT = re.compile(rb"token=(\d+) logit=(\S+)")
# No token id, position or layer has more digits than this.
_MOST_DIGITS = 10


def read_step(stderr: bytes, step: int) -> Step:
    """The trace of that decode step.

    Raises RuntimeFault when it is not there, is there twice, or is malformed.
    """
    started = _only(_STEP, stderr, "drift_trace step=")
    argmax = _only(_ARGMAX, stderr, "drift_trace logits")
    hidden = _only(_HIDDEN, stderr, "drift_trace output_norm_values=")
    for match in (started, argmax):
        if _whole(match[1]) != step:
            raise RuntimeFault("answered wrongly", f"asked to trace step {step}, it traced step {_whole(match[1])}")
    return Step(
        position=_whole(started[2]),
        token=_whole(started[3]),
        layers=_whole(started[4]),
        hidden=_numbers(hidden[1]),
        argmax=_whole(argmax[2]),
        argmax_logit=float(_numbers(argmax[3])[0]),
        values={(_whole(m[1]), m[2].decode()): _numbers(m[3]) for m in _VALUES.finditer(stderr)},
    )


def read_debug_logits(stderr: bytes) -> dict[int, float]:
    """The logits of single tokens, by id."""
    pairs = (pair for line in _LOGITS.finditer(stderr) for pair in _LOGIT.finditer(line[1]))
    return {_whole(pair[1]): float(_numbers(pair[2])[0]) for pair in pairs}


def _only(pattern: re.Pattern[bytes], stderr: bytes, what: str) -> re.Match[bytes]:
    matches = list(pattern.finditer(stderr))
    if not matches:
        raise RuntimeFault("answered wrongly", f"no line `{what}…` on stderr: nothing shows that it ran the model")
    if len(matches) > 1:
        raise RuntimeFault("answered wrongly", f"{len(matches)} lines `{what}…` where one was asked for")
    return matches[0]


def _whole(digits: bytes) -> int:
    if len(digits) > _MOST_DIGITS:
        raise RuntimeFault("answered wrongly", f"a number of {len(digits)} digits in its trace")
    return int(digits)


def _numbers(csv: bytes) -> Float32:
    try:
        return np.array([float(number) for number in csv.split(b",")] if csv else [], dtype=np.float32)
    except ValueError:
        raise RuntimeFault("answered wrongly", f"{csv[:40]!r} in its trace is not a list of numbers") from None
