"""tokens: the runtime's ids against SentencePiece over a hostile corpus, and its text against the pieces."""

from conform.contract.finding import Finding
from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Request
from conform.parity.evidence import Evidence
from conform.parity.questions.prompts import PROMPTS, PROSE
from conform.parity.questions.tokenizer import PromptTokenizer, pieces_as_text
from conform.parity.verdict import Measurement, RungResult, judged, not_run

__all__ = ["judge_tokens"]

_SHOWN = 12
_FIRST_PIECES = 300


def judge_tokens(evidence: Evidence) -> RungResult:
    """Exact ids for every text; where the runtime cannot list them, their number and the last of them."""
    tokenizer = evidence.subject.tokenizer
    if tokenizer is None:
        return not_run("tokens", "no tokenizer to compare with; give --checkpoint or --tokenizer")
    texts = _texts(evidence, tokenizer)
    runtime = evidence.subject.runtime
    listed = evidence.side_by_side("tokenizing", texts, runtime.tokenize)
    watched = evidence.side_by_side("running prompts", texts, lambda text: evidence.watch(Request(text, 1), 0)[1])
    findings: list[Finding] = []
    compared = 0
    for text, ids, step in zip(texts, listed, watched, strict=True):
        expected = tokenizer.ids(text) if text else evidence.opening.ids
        compared += len(expected) if ids is not None else 2
        if ids is not None and ids != expected:
            findings.append(_different(text, expected, ids))
        if (step.position + 1, step.token) != (len(expected), expected[-1]):
            found = f"{step.position + 1} ids, the last {step.token}"
            findings.append(Finding("error", repr(text[:40]), f"{len(expected)} ids, the last {expected[-1]}", found))
    findings += _judge_text(evidence)
    wrong = sum(finding.severity == "error" for finding in findings)
    in_full = sum(ids is not None for ids in listed)
    note = f"{in_full} of {len(texts)} texts compared id by id, the others by number of ids and last id"
    notes = [note, evidence.opening.note] if evidence.opening.note else [note]
    measured = [Measurement("texts that differ", wrong, 0)]
    return judged("tokens", compared, "ids", measured, findings, notes)


def _texts(evidence: Evidence, tokenizer: PromptTokenizer) -> list[str]:
    opening = evidence.opening.prompt  # empty, unless the runtime refuses that
    texts = dict.fromkeys((opening, *evidence.scope.prompts, *PROMPTS, *evidence.scope.texts, PROSE[:400]))
    return [text for text in texts if 0 < len(tokenizer.ids(text)) <= evidence.sizes.context]


def _different(text: str, expected: tuple[int, ...], found: tuple[int, ...]) -> Finding:
    pairs = zip(expected, found, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
    shown = slice(first, first + _SHOWN)
    return Finding(
        "error",
        f"{text[:40]!r}, id {first}",
        f"{list(expected[shown])} of {len(expected)}",
        f"{list(found[shown])} of {len(found)}",
    )


def _judge_text(evidence: Evidence) -> list[Finding]:
    """Forces pieces of every kind and compares what is printed for them."""
    file = evidence.subject.file
    ids = _printable_pieces(file)
    opening = evidence.opening
    ids = ids[: evidence.sizes.context - len(opening.ids)]
    if not ids:
        return [Finding("error", "tokenizer.ggml.tokens", "pieces to print", "none")]
    answer = evidence.subject.runtime.answer(Request(opening.prompt, len(ids), forced=ids))
    accepted = [opening.prompt.encode() + pieces_as_text(file, ids, raw_bytes=raw) for raw in (False, True)]
    if answer.text in accepted:
        return []
    first = next((i for i, (a, b) in enumerate(zip(accepted[0], answer.text, strict=False)) if a != b), 0)
    shown = slice(max(first - 8, 0), first + 24)
    return [Finding("error", "text of forced pieces", repr(accepted[0][shown]), repr(answer.text[shown]))]


def _printable_pieces(file: GGUFFile) -> tuple[int, ...]:
    """Ids of normal and byte pieces: the first few hundred, and then some from everywhere."""
    types = file.metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list):
        return ()
    usable = [token for token, kind in enumerate(types) if kind in {1, 6}]
    step = max(len(usable) // _FIRST_PIECES, 1)
    return tuple(usable[:32] + usable[32::step])
