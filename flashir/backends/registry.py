"""Backends and frontends by name, loaded on first use."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from flashir.backends.frontend import Frontend
from flashir.backends.protocols import Backend, PerDevice
from flashir.errors import TargetError
from flashir.plugins import BACKENDS, FRONTENDS, MEND, load, plugins, reason

Plugin = TypeVar("Plugin", Backend, Frontend)


def backend_names() -> tuple[str, ...]:
    """The names of the installed backends."""
    return tuple(sorted(plugins(BACKENDS)))


@cache
def backend(name: str) -> Backend:
    """The backend of that name. Raises TargetError if it is unknown, duplicated or does not load."""
    return _start(BACKENDS, name, Backend)  # type: ignore[type-abstract]  # a protocol as a type argument


def backend_of(target: str) -> Backend:
    """The backend of a target such as `jax:tpu-v4`, adapted to its device. Raises the errors of `backend`."""
    name, _, device = target.partition(":")
    generic = backend(name)
    return generic.on(device) if isinstance(generic, PerDevice) else generic


def backends() -> tuple[Backend, ...]:
    """Every backend that loads. `flashir doctor` reports the others."""
    loaded = []
    for name in backend_names():
        try:
            loaded.append(backend(name))
        except TargetError:
            continue
    return tuple(loaded)


def having(protocol: Any) -> tuple[str, ...]:
    """The names of the backends that implement an optional protocol."""
    return tuple(loaded.name for loaded in backends() if isinstance(loaded, protocol))


@cache
def frontend(name: str) -> Frontend:
    """The frontend of that name. Raises TargetError if it is unknown, duplicated or does not load."""
    return _start(FRONTENDS, name, Frontend)  # type: ignore[type-abstract]  # a protocol as a type argument


def frontends() -> tuple[Frontend, ...]:
    """Every frontend that loads. `broken_frontends` has the others."""
    return tuple(frontend(name) for name in sorted(plugins(FRONTENDS).keys() - broken_frontends().keys()))


@cache
def broken_frontends() -> dict[str, TargetError]:
    """The errors of the frontends that do not load, by name."""
    errors = {}
    for name in plugins(FRONTENDS):
        try:
            frontend(name)
        except TargetError as error:
            errors[name] = error
    return errors


def _start(group: str, name: str, protocol: type[Plugin]) -> Plugin:
    kind = load(group, name)
    try:
        plugin = kind() if callable(kind) else kind
    except Exception as error:
        raise TargetError(f"the plug-in {name!r} does not start: {reason(error)}", hint=MEND) from error
    if not isinstance(plugin, protocol):
        raise TargetError(f"the plug-in {plugins(group)[name].value} is not a {protocol.__name__}", hint=MEND)
    return plugin
