"""Start: the shortest prompt that a runtime starts from, and what it makes of it: found out, not assumed.

Runtimes differ in what an empty prompt is: BOS alone, as SentencePiece has it, BOS and the space that is put before
every text, or nothing that they will run. Sequences with forced tokens begin behind the start prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass

from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Request, RuntimeFault, Step
from conform.parity.questions.tokenizer import PromptTokenizer, bos_ids

__all__ = ["StartPrompt", "find_start_prompt"]

_SHORT_PROMPT = "a"
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class StartPrompt:
    """A prompt and its ids; no ids where a runtime cannot be started without text. `note` says what is unusual."""

    prompt: str
    ids: tuple[int, ...]
    note: str = ""


def find_start_prompt(
    file: GGUFFile, tokenizer: PromptTokenizer | None, watch: Callable[[Request], Step]
) -> StartPrompt:
    """How this runtime starts. Any other fault or answer at its start is left for the rungs to find."""
    bos = bos_ids(file)
    if not bos:
        return StartPrompt("", ()) if tokenizer is None else _short(tokenizer, "it has no BOS to start from")
    try:
        step = watch(Request("", 1))
    except RuntimeFault as fault:
        if fault.kind != "refused" or tokenizer is None:
            return StartPrompt("", bos)
        return _short(tokenizer, "it refuses an empty prompt")
    if step.position == len(bos) and _piece(file, step.token) == _SPACE:
        note = "an empty prompt is a space to it, where SentencePiece has nothing"
        return StartPrompt("", (*bos, step.token), note)
    return StartPrompt("", bos)


def _short(tokenizer: PromptTokenizer, note: str) -> StartPrompt:
    return StartPrompt(_SHORT_PROMPT, tokenizer.ids(_SHORT_PROMPT), note)


def _piece(file: GGUFFile, token: int) -> str:
    pieces = file.metadata.get("tokenizer.ggml.tokens", [])
    return str(pieces[token]) if isinstance(pieces, list) and token < len(pieces) else ""
