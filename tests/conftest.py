"""Settings that hold for every test: the same examples on every run, on every machine; light compilation."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "flashir",
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("flashir"), derandomize=False, max_examples=1000)
settings.load_profile("flashir")

LIGHT = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def pytest_configure(config: pytest.Config) -> None:
    """Tests compile far more than they compute: XLA spares its optimiser, and what one test compiled serves the next.

    Each worker keeps a folder of its own, which its child processes share. Bytecode is kept as well; otherwise every
    child compiles all that it imports, and every worker rewrites all assertions. There is a worker for each core, so a
    worker has one thread: the threads of others would wait for a core, and spin. Until all tests are collected, no
    garbage is: the frameworks make next to none on import, and it takes a second to look.
    """
    gc.disable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["FLASHIR_CONFIG"] = os.path.join(tempfile.gettempdir(), "flashir-tests-have-none")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LIGHT}".strip()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="flashir-jax-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow the cases whose arguments have the values of `slow_where`."""
    for item in items:
        for mark in item.iter_markers("slow_where"):
            arguments = item.callspec.params if isinstance(item, pytest.Function) else {}
            if all(arguments[name] == value for name, value in mark.kwargs.items()):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _predictions_are_made_once() -> Iterator[None]:
    """Many tests plan the same small models: each candidate is lowered and priced once for all of them."""
    from tests.support import predictions_made_once

    with predictions_made_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_need_not_survive_a_power_cut() -> Iterator[None]:
    """Waiting for the disk takes longer than most tests; those of full disks put in an `fsync` of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def pytest_collection_finish(session: pytest.Session) -> None:
    """The collector need not walk again and again through what the frameworks hold to the end."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.freeze()  # pytest collects at its end, and need not walk through all that is left either
    atexit.register(gc.unfreeze)  # else nanobind takes what is frozen for leaks, and says so
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
