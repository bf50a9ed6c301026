"""Finds plug-ins by their entry points, loads them when first asked for, and refuses duplicates."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from flashir.backend import Backend, PerDevice
from flashir.errors import TargetError, suggest
from flashir.frontend import Frontend

BACKENDS = "flashir.backends"
FRONTENDS = "flashir.frontends"
Plugin = TypeVar("Plugin", Backend, Frontend)


def backend_names() -> tuple[str, ...]:
    """The backends that are installed, loaded or not."""
    return tuple(sorted(_entries(BACKENDS)))


@cache
def backend(name: str) -> Backend:
    """The backend of that name. Raises TargetError where it is unknown, duplicated or does not load."""
    return _load(BACKENDS, name, Backend)  # type: ignore[type-abstract]  # a protocol stands for its instances here


def backend_of(target: str) -> Backend:
    """The backend of a target such as `jax:tpu-v4`, for its device where that matters. Raises as `backend` does."""
    name, _, device = target.partition(":")
    found = backend(name)
    return found.on(device) if isinstance(found, PerDevice) else found


@cache
def frontends() -> tuple[Frontend, ...]:
    """Every frontend that is installed. Raises TargetError where one does not load."""
    return tuple(_load(FRONTENDS, name, Frontend) for name in _entries(FRONTENDS))  # type: ignore[type-abstract]


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    found = list(entry_points(group=group))
    distinct = {(entry.name, entry.value): entry for entry in found}  # one install may be seen by two paths
    twice = [name for name, count in Counter(name for name, _ in distinct).items() if count > 1]
    if twice:
        raise TargetError(
            [f"the plug-in {n!r} of {group} is provided by {_providers(found, n)}" for n in twice],
            mend="uninstall all but one",
        )
    return {entry.name: entry for entry in found}


def _providers(found: list[EntryPoint], name: str) -> str:
    return " and by ".join(sorted(entry.value for entry in found if entry.name == name))


def _load(group: str, name: str, protocol: type[Plugin]) -> Plugin:
    entries = _entries(group)
    if name not in entries:
        raise TargetError(f"there is no plug-in {name!r} in {group}{suggest(name, entries)}")
    try:
        plugin = entries[name].load()()
    except ImportError as error:
        raise TargetError(
            f"the plug-in {name!r} does not load: {error}", mend=f"pip install 'flashir[{name}]'"
        ) from error
    if not isinstance(plugin, protocol):
        raise TargetError(f"the plug-in {entries[name].value} is no {protocol.__name__}")
    return plugin
