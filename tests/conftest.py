"""Settings that every test shares, and marks that say what a test needs."""

import os

from hypothesis import HealthCheck, settings

# Nothing here may depend on how busy the machine is. In CI the examples are the same in every run.
settings.register_profile(
    "conform",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("conform")

# A test gets the marks of the place where it stands, and of the fixtures that it uses, directly or not. The slow ones
# were found by measuring; where only some cases of a test are slow, they are marked where they are listed.
PLACES = {
    "parity/goref/": "go",
    "parity/cli/test_parity.py::test_without_": "go",
    "trainer/run/whole/": "training",
    "plugins/test_project.py": "installs",
    "plugins/cli/test_plugins.py::test_certify": "slow",
    "plugins/quantizers/kernels/test_notice.py": "slow",
    "torture/test_hostile.py::test_every_reader": "slow",
}
FIXTURES = {
    "goref": "go",
    "mutated_goref": "go",
    "torchrun": "training",
    "example_plugin": "installs",
}


def pytest_collection_modifyitems(items):
    """Mark every test with what it needs, so that `make check` can leave it out."""
    for item in items:
        place = item.nodeid.removeprefix("tests/")
        marks = {mark for start, mark in PLACES.items() if place.startswith(start)}
        marks |= {FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES}
        for mark in sorted(marks):
            item.add_marker(mark)
