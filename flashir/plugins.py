"""Plug-ins: packages that bring ops, backends, target records or models, found by their entry points.

A plug-in is imported when something of its group is first asked for. One that fails is reported by name, then and
whenever its code is called.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from traceback import walk_tb

from flashir.errors import FlashirError, TargetError, spoken, suggest

OPS = "flashir.ops"
"""Modules that define ops when they are imported: `retnet = "my_package.retention"`."""

BACKENDS = "flashir.backends"
"""Classes that follow `flashir.backends.protocols.Backend`: `mine = "my_package:MyBackend"`."""

FRONTENDS = "flashir.frontends"
"""Classes that follow `flashir.backends.frontend.Frontend`: `mine = "my_package:MyModels"`."""

TARGETS = "flashir.targets"
"""Folders of target records, `BACKEND-DEVICE.toml` each: `mine = "my_package:TARGETS"`, a path."""


@cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """The plug-ins of a group by name, none of them loaded. Raises TargetError where two have the same name."""
    found = list(entry_points(group=group))
    distinct = {(entry.name, entry.value): entry for entry in found}  # one install may be seen by two paths
    twice = [name for name, count in Counter(name for name, _ in distinct).items() if count > 1]
    if twice:
        raise TargetError(
            [f"the plug-in {n!r} of {group} is provided by {_providers(found, n)}" for n in twice],
            hint="uninstall all but one",
        )
    return {entry.name: entry for entry in found}


def _providers(found: list[EntryPoint], name: str) -> str:
    return " and by ".join(sorted({entry.value for entry in found if entry.name == name}))


def load(group: str, name: str) -> object:
    """What the entry point of a plug-in names. Raises TargetError where there is no such plug-in or it fails."""
    entries = plugins(group)
    if name not in entries:
        raise TargetError(f"there is no plug-in {name!r} in {group}{suggest(name, entries)}")
    try:
        loaded: object = entries[name].load()
    except ImportError as error:
        raise TargetError(
            f"the plug-in {name!r} does not load: {error}", hint=f"pip install 'flashir[{name}]'"
        ) from error
    except Exception as error:
        raise TargetError(f"the plug-in {name!r} does not load: {reason(error)}") from error
    return loaded


def blamed(error: BaseException) -> TargetError | None:
    """The error that names a plug-in, where something that is no error of flashir was raised in one.

    Python's complaint about how a method was called is raised outside of it, and names the method.
    """
    modules = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    called = str(error) if isinstance(error, TypeError) else ""
    for entry in _foreign():
        if entry.module.partition(".")[0] in modules or (entry.attr and f"{entry.attr}." in called):
            return TargetError(
                f"the plug-in {entry.name!r} ({entry.value}) failed: {reason(error)}",
                hint=f"this is a fault of the plug-in; {spoken('the traceback', '`flashir --debug`')} shows where",
            )
    return None


def _foreign() -> list[EntryPoint]:
    """The plug-ins that other distributions bring."""
    every = [each for group in (OPS, BACKENDS, FRONTENDS, TARGETS) for each in entry_points(group=group)]
    return [each for each in every if each.dist is None or each.dist.name != "flashir"]


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, FlashirError):
        return "; ".join(error.problems)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
