"""RoPE: the base and the scaling of rotary positions that a config.json names, in the words of old and new libraries.

transformers 5 writes one object, `rope_parameters`. Earlier ones write `rope_theta`, and `rope_scaling` where there is
one, with `type` for what is now `rope_type`. A file may hold both; then they must agree.
Source of the parameters and their defaults: transformers 5.24, modeling_rope_utils.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.huggingface.settings import Decided, Settings
from conform.contract.spec import RopeScaling

__all__ = ["rope_base", "rope_scaling"]

_OBJECTS = ("rope_parameters", "rope_scaling")
_CONTEXT = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class _Kind:
    """The parameters of a rope_type: those that it needs and those that it may have."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


_KINDS: Mapping[object, _Kind] = {
    "default": _Kind(),
    "linear": _Kind(("factor",)),
    "llama3": _Kind(("factor", "low_freq_factor", "high_freq_factor"), (_CONTEXT,)),
    "yarn": _Kind(
        ("factor",),
        (_CONTEXT, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}


@dataclass(frozen=True, slots=True)
class _Object:
    """One of the two objects: its key, its rope_type, and what else it says of the scaling."""

    key: str
    kind: str
    parameters: Mapping[str, Any]


def rope_base(settings: Settings) -> Decided[float]:
    """The base of the rotary frequencies.

    Raises ContractError when two places name different ones.
    """
    named = [Decided(settings.config["rope_theta"], "rope_theta")] if settings.says("rope_theta") else []
    named += [
        Decided(table["rope_theta"], f"{key}.rope_theta") for key, table in _tables(settings) if "rope_theta" in table
    ]
    bases = [Decided(settings.finite(base.source, base.value), base.source) for base in named]
    if any(base.value != bases[0].value for base in bases):
        raise settings.disagreement([(base.source, base.value) for base in bases])
    return bases[0] if bases else settings.number("rope_theta")


def rope_scaling(settings: Settings, context: int) -> Decided[RopeScaling | None]:
    """The scaling, or None; `context` is what the library takes for the original context where none is named.

    Raises ContractError for a kind or a parameter that no contract expresses, and when two places disagree.
    """
    objects = [_object(settings, key, table) for key, table in _tables(settings)]
    if len(objects) > 1 and (objects[0].kind, objects[0].parameters) != (objects[1].kind, objects[1].parameters):
        raise settings.disagreement([(o.key, {"rope_type": o.kind, **o.parameters}) for o in objects])
    found = objects[0] if objects else _Object(_OBJECTS[0], "default", {})
    original = _original_context(settings, found, context)
    if found.kind == "default":
        return Decided(None, found.key if objects else f"{' and '.join(_OBJECTS)} are absent")
    named = settings.says(_CONTEXT) or _CONTEXT in found.parameters or found.kind == "linear"
    source = found.key if named else f"{found.key}, with max_position_embeddings as the original context"
    return Decided(_scaling(settings, found, original), source)


def _tables(settings: Settings) -> list[tuple[str, Mapping[str, Any]]]:
    """Both objects, as far as they say anything, without what is null in them."""
    found = [(key, settings.config[key]) for key in _OBJECTS if settings.says(key)]
    for key, table in found:
        if not isinstance(table, Mapping):
            raise settings.refusal(key, table, "a JSON object or null")
    return [(key, {name: item for name, item in table.items() if item is not None}) for key, table in found if table]


def _object(settings: Settings, key: str, table: Mapping[str, Any]) -> _Object:
    kind = _kind(settings, key, table)
    if table.get("partial_rotary_factor", 1) != 1:
        raise settings.refusal(
            f"{key}.partial_rotary_factor", table["partial_rotary_factor"], "1; conform rotates whole heads"
        )
    apart = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    parameters = {name: value for name, value in table.items() if name not in apart}
    known = (*_KINDS[kind].needs, *_KINDS[kind].may)
    if unknown := sorted(name[:80] for name in parameters if name not in known):
        raise ContractError(
            f"{settings.where}: {key}: unknown key {', '.join(unknown[:8])} of rope_type {kind}; known are "
            f"{', '.join(('rope_theta', *known))}"
        )
    if missing := [name for name in _KINDS[kind].needs if name not in parameters]:
        raise ContractError(f"{settings.where}: {key}: missing {', '.join(missing)}, which rope_type {kind} needs")
    return _Object(key, kind, parameters)


def _kind(settings: Settings, key: str, table: Mapping[str, Any]) -> str:
    named = [(f"{key}.{name}", table[name]) for name in ("rope_type", "type") if name in table]
    if len(named) == 2 and named[0][1] != named[1][1]:
        raise settings.disagreement(named)
    place, kind = named[0] if named else (key, "default")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise settings.refusal(place, kind, f"one of {', '.join(map(str, _KINDS))}; a contract knows no other scaling")
    return kind


def _original_context(settings: Settings, found: _Object, context: int) -> int:
    named = [(f"{found.key}.{_CONTEXT}", found.parameters[_CONTEXT])] if _CONTEXT in found.parameters else []
    if settings.says(_CONTEXT):
        named.append((_CONTEXT, settings.config[_CONTEXT]))
        if _CONTEXT not in _KINDS[found.kind].may:
            raise settings.refusal(*named[-1], f"no such key beside rope_type {found.kind}, which has no use for it")
    for place, value in named:
        if type(value) is not int:
            raise settings.refusal(place, value, "a whole number")
    if any(value != named[0][1] for _, value in named):
        raise settings.disagreement(named)
    return int(named[0][1]) if named else context


def _scaling(settings: Settings, found: _Object, original: int) -> RopeScaling:
    given = {
        name: settings.finite(f"{found.key}.{name}", value)
        for name, value in found.parameters.items()
        if name not in (_CONTEXT, "truncate")
    }
    try:
        if found.kind == "linear":
            return RopeScaling("linear", given["factor"])
        if found.kind == "llama3":
            low, high = given["low_freq_factor"], given["high_freq_factor"]
            return RopeScaling("llama3", given["factor"], original, low, high)
        return _yarn(settings, found, original, given)
    except ContractError as error:
        raise ContractError(f"{settings.where}: {found.key}: {error}") from error


def _yarn(settings: Settings, found: _Object, original: int, given: Mapping[str, float]) -> RopeScaling:
    if found.parameters.get("truncate", True) is not True:
        raise settings.refusal(f"{found.key}.truncate", found.parameters["truncate"], "true; conform rounds the bounds")
    for name in ("mscale", "mscale_all_dim"):
        if given.get(name, 0.0) < 0:
            raise settings.refusal(f"{found.key}.{name}", given[name], "a number that is not negative")
    return RopeScaling(
        "yarn",
        given["factor"],
        original,
        beta_fast=given.get("beta_fast", 32.0),
        beta_slow=given.get("beta_slow", 1.0),
        attention_factor=given.get("attention_factor", _attention_factor(given)),
    )


def _attention_factor(given: Mapping[str, float]) -> float:
    """What YaRN multiplies sine and cosine with where the file does not say."""
    magnitude, of_all = given.get("mscale", 0.0), given.get("mscale_all_dim", 0.0)
    if magnitude and of_all:
        return _magnitude(given["factor"], magnitude) / _magnitude(given["factor"], of_all)
    return _magnitude(given["factor"], 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
