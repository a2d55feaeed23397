"""Answer line: the one line that a bitnet-go runtime prints, read so that no path and no architecture can forge it.

    model=<path> arch=<arch> gguf_version=<n> tensors=<n> kv=<n> ctx=<n> vocab=<n> tokens=<n> output=<quoted>

Path and architecture are not quoted, but both are known: what must stand on the left is compared literally.
"""

import os
import re
from collections.abc import Mapping

from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Answer, RuntimeFault
from conform.parity.drivers.goquote import QuoteError, unquote

__all__ = ["read_answer"]

_TAIL = re.compile(
    rb"gguf_version=(?P<gguf_version>\d{1,10}) tensors=(?P<tensors>\d{1,20}) kv=(?P<kv>\d{1,20}) "
    rb"ctx=(?P<ctx>\d{1,10}) vocab=(?P<vocab>\d{1,10}) tokens=(?P<tokens>\d{1,10}) output=(?P<output>\".*\")\n"
)


def read_answer(stdout: bytes, model: GGUFFile, prompt: str, max_tokens: int) -> Answer:
    """The answer on stdout, every field compared with the file and the request.

    Raises RuntimeFault for anything else on stdout, or any field that is not what it must be.
    """
    architecture = str(model.metadata.get("general.architecture", ""))
    prefix = b"model=" + os.fsencode(model.path) + b" arch=" + architecture.encode("utf-8", "surrogateescape") + b" "
    match = _TAIL.fullmatch(stdout, len(prefix)) if stdout.startswith(prefix) else None
    if match is None:
        expected = f"`model={model.path} arch={architecture} gguf_version=… output=…`"
        raise _wrong(f"stdout is not the one line {expected}; it is {_shown(stdout)}")
    for name, expected_number in _expected_fields(model, architecture, max_tokens).items():
        if int(match[name]) not in expected_number:
            shown = " or ".join(map(str, expected_number))
            raise _wrong(f"it says {name}={match[name].decode()}; expected {shown}")
    try:
        text = unquote(match["output"])
    except QuoteError as error:
        raise _wrong(f"output is not quoted as Go's %q quotes: {error}") from error
    if not text.startswith(prompt.encode()):
        raise _wrong(f"output does not begin with the prompt; it begins with {_shown(text)}")
    return Answer(text, int(match["tokens"]))


def _expected_fields(model: GGUFFile, architecture: str, max_tokens: int) -> Mapping[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {
        "gguf_version": (model.version,),
        "tensors": (len(model.tensors),),
        "kv": (len(model.metadata),),
        "tokens": (max_tokens,),
    }
    for field, key in (("ctx", "context_length"), ("vocab", "vocab_size")):
        value = model.metadata.get(f"{architecture}.{key}", 0)
        if isinstance(value, int):
            # Printed only, and known to be read under the prefix of llama alone.
            expected[field] = (value,) if architecture == "llama" else (value, 0)
    return expected


def _wrong(reason: str) -> RuntimeFault:
    return RuntimeFault("answered wrongly", reason)


def _shown(content: bytes) -> str:
    shown = repr(content[:120])[1:]
    return f"{shown}… ({len(content)} bytes)" if len(content) > 120 else shown
