"""Backends and frontends by name, loaded on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

from flashir.backends.frontend import Frontend
from flashir.backends.protocols import Backend, PerDevice
from flashir.errors import TargetError
from flashir.plugins import BACKENDS, FRONTENDS, MEND, at_fault, plugins, reason, start, working


def backend_names() -> tuple[str, ...]:
    """The names of the installed backends."""
    return tuple(sorted(plugins(BACKENDS)))


@cache
def backend(name: str) -> Backend:
    """The backend of that name.

    Raises TargetError if it is unknown, duplicated or does not load, or if its class has another name.
    """
    started: Backend = start(BACKENDS, name, Backend)
    if started.name != name:
        raise TargetError(f"the entry point of the plug-in {name!r} names a backend {started.name!r}", hint=MEND)
    return started


def backend_of(target: str) -> Backend:
    """The backend of a target such as `jax:tpu-v4`, adapted to its device. Raises the errors of `backend`."""
    name, _, device = target.partition(":")
    generic = backend(name)
    return generic.on(device) if isinstance(generic, PerDevice) else generic


def backends() -> tuple[Backend, ...]:
    """Every backend that loads. `flashir doctor` reports the others."""
    return tuple(working(BACKENDS, backend)[0].values())


def broken_backends() -> dict[str, TargetError]:
    """The errors of the backends that do not load, by name."""
    return working(BACKENDS, backend)[1]


def having(protocol: Any) -> tuple[str, ...]:
    """The names of the backends that implement an optional protocol."""
    return tuple(loaded.name for loaded in backends() if isinstance(loaded, protocol))


@cache
def frontend(name: str) -> Frontend:
    """The frontend of that name.

    Raises TargetError if it is unknown, duplicated or does not load, or if it cannot name its models.
    """
    started: Frontend = start(FRONTENDS, name, Frontend)
    try:
        list(started.models())
    except (Exception, SystemExit) as error:
        raise at_fault(FRONTENDS, name, reason(error)) from error
    return started


def frontends() -> dict[str, Frontend]:
    """Every frontend that loads, by name. `broken_frontends` has the others."""
    return working(FRONTENDS, frontend)[0]


def broken_frontends() -> dict[str, TargetError]:
    """The errors of the frontends that do not load, by name."""
    return working(FRONTENDS, frontend)[1]
