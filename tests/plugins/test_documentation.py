"""docs/reference/plugins.md says what the code says."""

import inspect
import re
from pathlib import Path

import pytest

import conform.plugins
from conform.plugins import Runtime, hookspecs
from conform.plugins.host import load_registry
from conform.plugins.testing import CHECKS, certify

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "plugins.md").read_text()
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("conform_")}


def documented_hooks():
    """Name → (signature, text below the heading up to the next one)."""
    sections = re.split(r"^#+ ", TEXT, flags=re.MULTILINE)
    headings = [re.match(r"`(conform_\w+)(\(.*)`\n\n(.*?)\n\n", section, re.DOTALL) for section in sections]
    return {heading[1]: (heading[2], heading[3]) for heading in headings if heading}


def signature(function):
    returns = inspect.get_annotations(function, eval_str=True)["return"]
    parameters = str(inspect.signature(function)).split(" -> ")[0]
    return f"{parameters} -> Iterable[{returns.__args__[0].__name__}]"


def modules():
    """The complete plugins among the examples, by the file name in their first line."""
    return dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))


def test_every_hook_is_documented_with_its_exact_signature_and_meaning():
    assert documented_hooks() == {name: (signature(spec), inspect.getdoc(spec)) for name, spec in HOOKS.items()}


def test_every_hook_has_a_complete_plugin_as_its_example():
    shown = [re.findall(r"@hookimpl\ndef (\w+)", source) for source in modules().values()]
    assert sorted(hook for hooks in shown for hook in hooks) == sorted(HOOKS)


def test_the_example_of_a_runtime_has_every_member_of_the_protocol():
    example = {}
    exec(modules()["runtimes"], example)
    members = {name for name in vars(Runtime) if not name.startswith("_")}
    given = set(vars(example["MyRuntime"])) | {"identity"}  # identity is set on the instance
    assert members <= given
    for name in members - {"identity", "generator", "view"}:
        assert inspect.signature(example["MyRuntime"].__dict__[name]).parameters.keys() == parameters_of(name)


def parameters_of(name):
    return inspect.signature(vars(Runtime)[name]).parameters.keys()


@pytest.mark.parametrize("name", modules())
def test_the_example_of_a_hook_loads(site_packages, name):
    site_packages.install(f"documented-{name}", modules()[name])
    registry = load_registry()
    assert not registry.failures
    assert registry.plugins[-1].name == f"documented-{name}:main"


def test_the_smallest_quantizer_is_certified(site_packages):
    site_packages.install("documented", modules()["quantizers"])
    certificate = certify(load_registry().quantizers["half"])
    assert certificate, certificate


def test_every_check_is_documented_with_its_promise():
    assert re.findall(r"^\| `([\w-]+)` \| (.*) \|$", TEXT, re.MULTILINE) == [(c.id, c.promise) for c in CHECKS]


def test_the_public_surface_is_documented():
    section = TEXT.split("## What `conform.plugins` offers")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section)) - {"CONFORM_THREADS"}
    assert named == set(conform.plugins.__all__)


def test_the_documented_api_is_the_current_one():
    assert set(re.findall(r"CONFORM_PLUGIN_API = (\d+)", TEXT)) == {str(hookspecs.API)}
