"""Tokenizer settings: what the files beside a tokenizer say of it besides its pieces, as far as they agree.

tokenizer_config.json     add_bos_token, add_eos_token, add_prefix_space, special tokens, added tokens, chat template
special_tokens_map.json   special tokens
added_tokens.json         the ids of added tokens
generation_config.json    the ids at which generation stops
chat_template.jinja       the chat template
tokenizer.json            added tokens, BOS and EOS, the dummy prefix, and the pieces once more

`legacy` is not read: it decides only about text behind a special token, and the text of a prompt holds none.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conform.contract.bounded import read_bounded
from conform.contract.errors import InputError
from conform.contract.mapping import from_mapping, shown
from conform.core.errors import CheckpointError
from conform.core.files.digest import file_sha256
from conform.core.files.json import read_json_object
from conform.core.tokenizer.pipeline import Pipeline, read_pipeline
from conform.core.tokenizer.token import AddedToken, StatedToken, stated_token

__all__ = ["TokenizerSettings", "read_settings", "tokenizer_digest"]

_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_GENERATION, _TEMPLATE, _PIPELINE = "generation_config.json", "chat_template.jinja", "tokenizer.json"
_FILES = (_CONFIG, _MAP, _ADDED, _GENERATION, _TEMPLATE, _PIPELINE)

_LARGEST_TEMPLATE = 1 << 20
_ROLES = ("bos", "eos", "unk", "pad")
_ID = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """None, or nothing, where no file says it. `bos` to `pad` are texts; `stop_ids` end a generation.

    `pieces` are those of tokenizer.json by text. `origins` names the file that states a fact, `left_out` is what no
    GGUF file of a contract holds, with the file that states it.
    """

    add_bos: bool | None = None
    add_eos: bool | None = None
    add_prefix_space: bool | None = None
    bos: str | None = None
    eos: str | None = None
    unk: str | None = None
    pad: str | None = None
    chat_template: str | None = None
    stop_ids: tuple[int, ...] = ()
    added: tuple[AddedToken, ...] = ()
    pieces: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


def read_settings(folder: Path, *, with_pipeline: bool = True) -> TokenizerSettings:
    """The settings in that folder; without the pipeline for a tokenizer that tokenizer.json itself holds.

    Raises InputError naming the file that is malformed, that contradicts another, or that demands what no contract can
    express.
    """
    statements = _Statements(folder)
    readers = {_CONFIG: _read_config, _MAP: _read_map, _ADDED: _read_added, _GENERATION: _read_generation}
    for name, read in readers.items():
        if (folder / name).is_file():
            read(statements, name, read_json_object(folder / name, "settings of a tokenizer"))
    if (folder / _TEMPLATE).is_file():
        statements.state(_TEMPLATE, chat_template=_template_text(folder / _TEMPLATE))
    extra = sorted(path.stem for path in (folder / "additional_chat_templates").glob("*.jinja"))
    statements.left_out += [("additional_chat_templates", f"a chat template {stem[:80]!r}") for stem in extra]
    if with_pipeline and (folder / _PIPELINE).is_file():
        _take_pipeline(statements, read_pipeline(folder / _PIPELINE))
    return statements.settled()


def tokenizer_digest(path: Path) -> str:
    """sha256 of a tokenizer's file; with settings beside it, of the lines `SHA256  NAME` of all of them by name.

    The second is what `sha256sum NAMES | sha256sum` prints. Raises InputError for a file that cannot be read.
    """
    names = {path.name, *(name for name in _FILES if (path.parent / name).is_file())}
    if len(names) == 1:
        return file_sha256(path)
    lines = "".join(f"{file_sha256(path.parent / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


class _Statements:
    """What the files say so far. A fact, and an added token, may be stated twice only when both say the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._facts: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._added: dict[int, AddedToken] = {}
        self._named: dict[str, int] = {}  # by added_tokens.json, which says nothing of kinds
        self.special: set[str] = set()
        self.left_out: list[tuple[str, str]] = []

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def state(self, name: str, **facts: Any) -> None:
        for fact, value in facts.items():
            if value is None:
                continue
            known = self._facts.setdefault(fact, value)
            origin = self._origins.setdefault(fact, name)
            if known != value:
                raise self._contradiction(name, fact, value, origin, known)

    def add(self, name: str, token: AddedToken) -> None:
        known = self._added.setdefault(token.id, token)
        origin = self._origins.setdefault(f"added token {token.id}", name)
        if known != token:
            raise self._contradiction(name, f"added token {token.id}", token.describe(), origin, known.describe())

    def name(self, text: str, number: int) -> None:
        self._named[text] = number

    def settled(self) -> TokenizerSettings:
        self.special |= {text for role in _ROLES if (text := self._facts.get(role))}
        for text, number in self._named.items():
            kind = self._added[number].special if number in self._added else text in self.special
            self.add(_ADDED, AddedToken(number, text, special=kind))
        # A library makes a token special when it gives it a role, whatever the list of added tokens says.
        added = tuple(
            AddedToken(number, token.text, token.special or token.text in self.special)
            for number, token in sorted(self._added.items())
        )
        return TokenizerSettings(**self._facts, added=added, origins=self._origins, left_out=tuple(self.left_out))

    def _contradiction(self, name: str, fact: str, value: object, origin: str, known: object) -> CheckpointError:
        return CheckpointError(
            f"{self.where(name)}: says {fact} = {shown(value)}, but {origin} beside it says {shown(known)}; "
            "correct the one that is wrong"
        )


@dataclass(frozen=True, slots=True)
class _Config:
    """What is understood of tokenizer_config.json; the rest concerns batches, decoding and Python classes."""

    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    added_tokens_decoder: Mapping[str, Any] | None = None
    additional_special_tokens: Any = None
    extra_special_tokens: Any = None
    chat_template: Any = None
    do_lower_case: bool | None = None
    auto_map: Any = None
    sp_model_kwargs: Mapping[str, Any] | None = None
    bos_token: Any = None
    eos_token: Any = None
    unk_token: Any = None
    pad_token: Any = None


def _read_config(statements: _Statements, name: str, data: Mapping[str, Any]) -> None:
    where = statements.where(name)
    config = from_mapping(_Config, data, where, ignore_unknown=True)
    _refuse_config(config, where)
    statements.state(
        name,
        add_bos=config.add_bos_token,
        add_eos=config.add_eos_token,
        add_prefix_space=config.add_prefix_space,
        chat_template=_default_template(statements, config.chat_template, where),
    )
    _read_map(statements, name, data)
    for key, value in (config.added_tokens_decoder or {}).items():
        if not _ID.fullmatch(key):
            raise InputError(f"{where}: added_tokens_decoder: {shown(key)}: expected the id of a token")
        token = stated_token(value, where, f"added_tokens_decoder.{key}")
        statements.add(name, token.at(int(key), where))


def _refuse_config(config: _Config, where: str) -> None:
    refused = {
        "auto_map": (config.auto_map, "code of its own, which conform never runs"),
        "do_lower_case": (config.do_lower_case, "text in lower case"),
        "sp_model_kwargs": (config.sp_model_kwargs, "options for SentencePiece"),
    }
    for key, (value, what) in refused.items():
        if value:
            raise CheckpointError(
                f"{where}: {key} = {shown(value)}: it asks for {what}, and a contract cannot express that; remove the "
                "key if the model was trained without it"
            )


def _read_map(statements: _Statements, name: str, data: Mapping[str, Any]) -> None:
    where = statements.where(name)
    for role in _ROLES:
        if (value := data.get(f"{role}_token")) is not None:
            statements.state(name, **{role: stated_token(value, where, f"{role}_token").content})
    for key in ("additional_special_tokens", "extra_special_tokens"):
        statements.special |= {token.content for token in _listed_tokens(data.get(key), where, key)}


def _listed_tokens(value: object, where: str, key: str) -> Iterator[StatedToken]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | None):
        raise InputError(f"{where}: {key} = {shown(value)}: expected a list of tokens")
    for number, item in enumerate(value or []):
        yield stated_token(item, where, f"{key}[{number}]")


def _read_added(statements: _Statements, name: str, data: Mapping[str, Any]) -> None:
    for text, number in data.items():
        if not _is_id(number):
            raise InputError(f"{statements.where(name)}: {shown(text)} = {shown(number)}: expected the id of a token")
        statements.name(text, number)


def _read_generation(statements: _Statements, name: str, data: Mapping[str, Any]) -> None:
    value = data.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(map(_is_id, ids)):
        raise InputError(f"{statements.where(name)}: eos_token_id = {shown(value)}: expected an id, or a list of ids")
    statements.state(name, stop_ids=tuple(ids) or None)


def _take_pipeline(statements: _Statements, pipeline: Pipeline) -> None:
    statements.state(
        _PIPELINE,
        add_bos=pipeline.add_bos,
        add_eos=pipeline.add_eos,
        bos=pipeline.bos,
        eos=pipeline.eos,
        add_prefix_space=pipeline.add_prefix_space,
        pieces=pipeline.pieces,
    )
    if pipeline.skips_leading_space:
        statements.left_out.append((_PIPELINE, "no space before a text that begins with one"))
    for token in pipeline.added:
        statements.add(_PIPELINE, token)


def _template_text(path: Path) -> str:
    try:
        return read_bounded(path, _LARGEST_TEMPLATE, "a chat template").decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a chat template: it is not UTF-8") from error


def _default_template(statements: _Statements, value: object, where: str) -> str | None:
    """The template itself, or of several the one named default; the names of the others are left out."""
    if isinstance(value, str | None):
        return value
    try:
        named = {item["name"]: item["template"] for item in value}  # type: ignore[attr-defined]  # caught below
        texts = {str(name): text for name, text in named.items() if isinstance(text, str)}
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where}: chat_template = {shown(value)}: expected a text, or a list of named ones"
        ) from error
    statements.left_out += [(_CONFIG, f"a chat template {name[:80]!r}") for name in texts if name != "default"]
    return texts.get("default")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
