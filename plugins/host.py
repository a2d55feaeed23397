"""Host: finds plugins, registers them one by one, and asks each what it offers.

pluggy's own loader drops an entry point of an equal name in silence, and one broken plugin aborts all others; so the
entry points are walked here, sorted, and each is registered as `distribution:entry point`.
"""

import importlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from conform.core.errors import PluginError
from conform.core.quantizer import Layout, Quantizer
from conform.plugins import hookspecs
from conform.plugins.builtin import BUILTIN_PLUGINS
from conform.plugins.registry import Failure, Kind, Plugin, Registry

__all__ = ["DISABLE_VARIABLE", "GROUP", "load_registry"]

GROUP = "conform"
"""The entry-point group in which a distribution announces its plugins."""

DISABLE_VARIABLE = "CONFORM_DISABLE_PLUGINS"
"""`*`, or names of distributions or of `distribution:entry point`, separated by commas; built-ins always load."""

_KINDS: dict[str, Kind] = {
    "conform_quantizers": "quantizer",
    "conform_metadata_writers": "metadata writer",
    "conform_runtime_drivers": "runtime driver",
}

# What an object of each kind must have besides its name.
_MEMBERS: dict[Kind, tuple[str, ...]] = {
    "quantizer": ("layout", "needs_importance", "nbytes", "quantize", "dequantize"),
    "metadata writer": ("keys",),
    "runtime driver": ("companions", "open"),
}

# A name is typed on command lines, matched by shell patterns and used in file names.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plugin before it is imported."""

    name: str
    distribution: str
    version: str
    module: str
    load: Callable[[], Any]
    states_api: bool

    @property
    def owner(self) -> str:
        return f"{self.distribution} {self.version}"


def load_registry() -> Registry:
    """Everything that the built-in and the installed plugins offer; a plugin that fails is recorded, not fatal.

    Raises PluginError when two plugins offer the same name.
    """
    manager = pluggy.PluginManager("conform")
    manager.add_hookspecs(hookspecs)
    offered: dict[Kind, dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
    plugins: list[Plugin] = []
    failures: list[Failure] = []
    for candidate in (*_builtins(), *_installed(os.environ.get(DISABLE_VARIABLE, ""))):
        try:
            plugin, objects = _load(manager, candidate)
        # A plugin may raise anything while it is imported or asked, and some call sys.exit.
        except (Exception, SystemExit) as error:
            manager.set_blocked(candidate.name)
            failures.append(Failure(candidate.name, candidate.owner, _reason(error)))
            continue
        for (kind, name), thing in zip(plugin.offers, objects, strict=True):
            if name in offered[kind]:
                raise _clash(kind, name, plugins, plugin)
            offered[kind][name] = thing
        plugins.append(plugin)
    return Registry(
        quantizers=offered["quantizer"],
        metadata_writers=offered["metadata writer"],
        runtime_drivers=offered["runtime driver"],
        plugins=tuple(plugins),
        failures=tuple(failures),
    )


def _builtins() -> Iterator[_Candidate]:
    version = importlib.metadata.version("gguf-conform")
    for module in BUILTIN_PLUGINS:
        entry = module.removeprefix("conform.")
        yield _Candidate(f"gguf-conform:{entry}", "gguf-conform", version, module, _importer(module), states_api=False)


def _importer(module: str) -> Callable[[], ModuleType]:
    return lambda: importlib.import_module(module)


def _installed(disabled: str) -> Iterator[_Candidate]:
    switched_off = {name.strip() for name in disabled.split(",")}
    if "*" in switched_off:
        return
    found = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        distribution, version = _identity(entry.dist)
        name, module = f"{distribution}:{entry.name}", entry.value.partition(":")[0].strip()
        if not {distribution, name} & switched_off:
            found.append(_Candidate(name, distribution, version, module, _loader(entry), states_api=True))
    yield from sorted(found, key=lambda candidate: (candidate.name, candidate.module))


def _loader(entry: importlib.metadata.EntryPoint) -> Callable[[], Any]:
    def load() -> Any:
        if not entry.pattern.match(entry.value):
            raise PluginError(f"the entry point is {entry.value!r}; expected `module` or `module:object`")
        return entry.load()

    return load


def _identity(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Name and version; "unknown" where damaged metadata do not state them."""
    try:
        stated = (distribution.name, distribution.version) if distribution else (None, None)
    except KeyError:
        stated = (None, None)
    return stated[0] or "unknown", stated[1] or "unknown"


def _load(manager: pluggy.PluginManager, candidate: _Candidate) -> tuple[Plugin, list[Any]]:
    """Import, register and ask one plugin; what it returns is checked before anything uses it."""
    implementation = candidate.load()
    if candidate.states_api:
        _check_api(implementation)
    manager.register(implementation, candidate.name)
    manager.check_pending()
    hooks, offers, objects = [], [], []
    for caller in manager.get_hookcallers(implementation) or []:
        for call in caller.get_hookimpls():
            if call.plugin is not implementation:
                continue
            if call.wrapper or call.hookwrapper:
                raise PluginError(f"{caller.name} is a hook wrapper, which could change what other plugins offer")
            hooks.append(caller.name)
            for thing in _asked(caller.name, call.function):
                offers.append((_KINDS[caller.name], thing.name))
                objects.append(thing)
    if not hooks:
        raise PluginError(f"implements no hook; expected @hookimpl before one of {', '.join(_KINDS)}")
    plugin = Plugin(
        candidate.name, candidate.distribution, candidate.version, candidate.module, tuple(hooks), tuple(offers)
    )
    return plugin, objects


def _check_api(implementation: object) -> None:
    # Required rather than assumed: a plugin that says nothing was written for no particular version.
    stated = getattr(implementation, "CONFORM_PLUGIN_API", None)
    if stated != hookspecs.API:
        raise PluginError(f"CONFORM_PLUGIN_API is {stated}; this conform expects CONFORM_PLUGIN_API = {hookspecs.API}")


def _asked(hook: str, function: Callable[..., object]) -> Iterator[Any]:
    returned = function()
    if not isinstance(returned, Iterable):
        raise PluginError(f"{hook} returned {type(returned).__name__}; expected an iterable")
    seen = set()
    for thing in returned:
        if problem := _problem(_KINDS[hook], thing):
            raise PluginError(f"{hook}: {problem}")
        if thing.name in seen:
            raise PluginError(f"{hook} offers {thing.name} twice")
        seen.add(thing.name)
        yield thing


def _problem(kind: Kind, thing: object) -> str:
    """Why the object cannot be used, "" when it can."""
    if isinstance(thing, type):
        return f"{thing.__name__} is a class; expected an instance of it"
    name = getattr(thing, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"a {kind} is named {name!r}; expected lower-case letters, digits, '_', '.' and '-'"
    if missing := [member for member in _MEMBERS[kind] if not hasattr(thing, member)]:
        return f"{name} has no {', '.join(missing)}, which a {kind} must have"
    return _layout_problem(name, thing) if isinstance(thing, Quantizer) and kind == "quantizer" else ""


def _layout_problem(name: str, quantizer: Quantizer) -> str:
    layout = quantizer.layout
    if not isinstance(layout, Layout):
        return f"the layout of {name} is a {type(layout).__name__}; expected a conform.plugins.Layout"
    if not 0 <= layout.ggml_type < 2**32 or layout.block_size < 1:
        return f"the layout of {name} is {layout}; expected a 32-bit type id and a block size of at least 1"
    return ""


def _clash(kind: Kind, name: str, loaded: list[Plugin], second: Plugin) -> PluginError:
    first = next(plugin for plugin in loaded if (kind, name) in plugin.offers)
    return PluginError(
        f"{kind} {name} is offered by plugin {first.name} ({first.owner}) and by plugin {second.name} "
        f"({second.owner}); uninstall one, or set {DISABLE_VARIABLE}={second.name}"
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
