"""Backends and frontends by name, loaded when first asked for."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from flashir.backends.frontend import Frontend
from flashir.backends.protocols import Backend, PerDevice
from flashir.errors import TargetError
from flashir.plugins import BACKENDS, FRONTENDS, load, plugins

Plugin = TypeVar("Plugin", Backend, Frontend)


def backend_names() -> tuple[str, ...]:
    """The backends that are installed, loaded or not."""
    return tuple(sorted(plugins(BACKENDS)))


@cache
def backend(name: str) -> Backend:
    """The backend of that name. Raises TargetError where it is unknown, duplicated or does not load."""
    return _made(BACKENDS, name, Backend)  # type: ignore[type-abstract]  # a protocol stands for its instances here


def backend_of(target: str) -> Backend:
    """The backend of a target such as `jax:tpu-v4`, for its device where that matters. Raises as `backend` does."""
    name, _, device = target.partition(":")
    found = backend(name)
    return found.on(device) if isinstance(found, PerDevice) else found


def backends() -> tuple[Backend, ...]:
    """Every backend that loads; what is wrong with another, `flashir doctor` says."""
    found = []
    for name in backend_names():
        try:
            found.append(backend(name))
        except TargetError:
            continue
    return tuple(found)


def having(protocol: Any) -> tuple[str, ...]:
    """The names of the backends that follow an optional protocol."""
    return tuple(each.name for each in backends() if isinstance(each, protocol))


@cache
def frontends() -> tuple[Frontend, ...]:
    """Every frontend that is installed. Raises TargetError where one does not load."""
    return tuple(_made(FRONTENDS, name, Frontend) for name in plugins(FRONTENDS))  # type: ignore[type-abstract]


def _made(group: str, name: str, protocol: type[Plugin]) -> Plugin:
    kind = load(group, name)
    try:
        plugin = kind() if callable(kind) else kind
    except Exception as error:
        raise TargetError(f"the plug-in {name!r} does not start: {type(error).__name__}: {error}") from error
    if not isinstance(plugin, protocol):
        raise TargetError(f"the plug-in {plugins(group)[name].value} is no {protocol.__name__}")
    return plugin
