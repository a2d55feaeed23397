"""Settings that every test shares."""

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
