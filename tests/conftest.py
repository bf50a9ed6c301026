"""Settings that hold for every test: the same examples on every run, on every machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "flashir",
    derandomize=True,
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("flashir"), derandomize=False, max_examples=1000)
settings.load_profile("flashir")
