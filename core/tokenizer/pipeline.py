"""Pipeline: what tokenizer.json says of a SentencePiece model beside it, in the words of the library tokenizers.

normalizer       Prepend and Replace put the dummy prefix and write spaces as `▁`; no other is identity
pre_tokenizer    Metaspace does the same
post_processor   TemplateProcessing puts BOS before a text and EOS behind it
model            the pieces, which must be those of the SentencePiece model
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conform.contract.errors import InputError
from conform.contract.mapping import from_mapping, shown
from conform.core.errors import CheckpointError
from conform.core.files.json import read_json_object
from conform.core.tokenizer.token import AddedToken, stated_token

__all__ = ["Pipeline", "read_pipeline"]

_MARK = "\u2581"
_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_DOUBLE = {"type": "Replace", "pattern": {"Regex": rf"\A{_MARK}"}, "content": 2 * _MARK}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """None where the file leaves it to others. `bos` and `eos` are the texts that are put around a text.

    `skips_leading_space`: no space is put before a text that begins with one, which no GGUF file can express.
    """

    add_bos: bool | None
    add_eos: bool | None
    bos: str | None
    eos: str | None
    add_prefix_space: bool | None
    skips_leading_space: bool
    added: tuple[AddedToken, ...]
    pieces: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class _File:
    normalizer: Mapping[str, Any] | None = None
    pre_tokenizer: Mapping[str, Any] | None = None
    post_processor: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None
    added_tokens: list[Any] = field(default_factory=list)


def read_pipeline(path: Path) -> Pipeline:
    """The pipeline in that file.

    Raises InputError naming the part that is malformed, or that prepares text as no contract can express.
    """
    where = str(path)
    file = from_mapping(_File, read_json_object(path, "a tokenizer"), where, ignore_unknown=True)
    before, behind = _template(file.post_processor, where)
    steps = [*_steps(file.normalizer, "normalizers", where), *_steps(file.pre_tokenizer, "pretokenizers", where)]
    prefixes = [_puts_prefix(step, where) for step in steps]
    return Pipeline(
        add_bos=None if before is None else bool(before),
        add_eos=None if behind is None else bool(behind),
        bos=before or None,
        eos=behind or None,
        add_prefix_space=None if not steps else any(prefixes),
        skips_leading_space=any(prefixes) and not any(map(_is_exact, steps)),
        added=tuple(_added(file.added_tokens, where)),
        pieces=_pieces(file.model, where),
    )


def _added(items: Sequence[object], where: str) -> Iterator[AddedToken]:
    for number, item in enumerate(items):
        token = stated_token(item, where, f"added_tokens[{number}]")
        if token.id is None or not 0 <= token.id < 1 << 31:
            raise InputError(f"{where}: added_tokens[{number}].id = {shown(token.id)}: expected the id of a token")
        yield token.at(token.id, where)


def _pieces(model: Mapping[str, Any] | None, where: str) -> Mapping[str, int] | None:
    if model is None:
        return None
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(
            f"{where}: model.type = {shown(model.get('type'))} beside a SentencePiece model of type bpe: one of the "
            "two belongs to another model; remove it"
        )
    vocab = model.get("vocab")
    if not isinstance(vocab, Mapping) or not all(type(number) is int for number in vocab.values()):
        raise InputError(f"{where}: model.vocab = {shown(vocab)}: expected the id of every piece")
    return vocab


def _puts_prefix(step: Mapping[str, Any], where: str) -> bool:
    """Whether the step puts a space before every text, or before those that begin with none."""
    kind = step.get("type")
    if step in (_ESCAPE, _DOUBLE):
        return False
    if kind == "Prepend" and step.get("prepend") == _MARK:
        return True
    if kind == "Metaspace" and step.get("replacement", _MARK) == _MARK:
        if "prepend_scheme" in step:
            return bool(step["prepend_scheme"] != "never")
        return step.get("add_prefix_space", True) is not False
    raise CheckpointError(
        f"{where}: {shown(kind)} prepares text in a way that SentencePiece with identity normalisation does not; "
        "remove the file if it does not belong to the model"
    )


def _is_exact(step: Mapping[str, Any]) -> bool:
    """Whether the step makes up for what Metaspace does not put before a space."""
    return step == _DOUBLE or step.get("type") == "Prepend"


def _template(processor: Mapping[str, Any] | None, where: str) -> tuple[str | None, str | None]:
    """The special tokens before and behind a text, "" for none; None when no template says it."""
    found: tuple[str | None, str | None] = (None, None)
    for step in _steps(processor, "processors", where):
        if step.get("type") != "TemplateProcessing":
            raise CheckpointError(
                f"{where}: post_processor {shown(step.get('type'))}: a contract can express a template with BOS "
                "and EOS only"
            )
        found = _around(step.get("single"), where)
    return found


def _around(template: object, where: str) -> tuple[str, str]:
    items = [_template_item(item) for item in template] if isinstance(template, list) else []
    place = items.index("") if "" in items else 0
    before, behind = items[:place], items[place + 1 :]
    if items.count("") != 1 or None in items or len(before) > 1 or len(behind) > 1:
        raise CheckpointError(
            f"{where}: post_processor.single = {shown(template)}: expected a sequence with at most one special token "
            "before and one behind it; a contract can express BOS and EOS only"
        )
    return "".join(map(str, before)), "".join(map(str, behind))


def _template_item(item: object) -> str | None:
    """The text of a special token, "" for the sequence, None for anything else."""
    if isinstance(item, Mapping) and len(item) == 1:
        ((kind, what),) = item.items()
        name = what.get("id") if isinstance(what, Mapping) else None
        if kind == "Sequence":
            return ""
        if kind == "SpecialToken" and isinstance(name, str) and name:
            return name
    return None


def _steps(part: Mapping[str, Any] | None, inside: str, where: str) -> list[Mapping[str, Any]]:
    """The steps of a part: those of a sequence, or the part itself."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    items = part.get(inside)
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise InputError(f"{where}: {inside} = {shown(items)}: expected a list of steps")
    return items
