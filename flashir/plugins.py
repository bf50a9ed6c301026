"""Plug-ins: packages that provide ops, backends, target records, models or importers, found through entry points.

A plug-in is imported when something of its group is first requested. An error in its import or in a later call names
the plug-in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from traceback import walk_tb
from typing import Any, TypeVar

from flashir.errors import FlashirError, TargetError, spoken, suggest

OPS = "flashir.ops"
"""Modules that define ops on import: `retnet = "my_package.retention"`."""

BACKENDS = "flashir.backends"
"""Classes that implement `flashir.backends.protocols.Backend`: `mine = "my_package:MyBackend"`."""

FRONTENDS = "flashir.frontends"
"""Classes that implement `flashir.backends.frontend.Frontend`: `mine = "my_package:MyModels"`."""

IMPORTERS = "flashir.importers"
"""Classes that follow `Importer` or `FileImporter` of `flashir.importing.importer`: `mine = "my_package:MyModels"`."""

TARGETS = "flashir.targets"
"""Paths of folders with target records `BACKEND-DEVICE.toml`: `mine = "my_package:TARGETS"`."""

MEND = "mend the plug-in, or uninstall it"

Plugin = TypeVar("Plugin")


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. It takes milliseconds to look through all distributions."""
    return tuple(entry_points(group=group))


@cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """The plug-ins of a group by name, without loading them. Raises TargetError if two have the same name."""
    entries = list(installed(group))
    distinct = {(entry.name, entry.value): entry for entry in entries}  # one install may appear on two paths
    twice = [name for name, count in Counter(name for name, _ in distinct).items() if count > 1]
    if twice:
        raise TargetError(
            [f"the plug-in {n!r} of {group} is provided by {_providers(entries, n)}" for n in twice],
            hint="uninstall all but one",
        )
    return {entry.name: entry for entry in entries}


def _providers(entries: list[EntryPoint], name: str) -> str:
    return " and by ".join(sorted({entry.value for entry in entries if entry.name == name}))


def load(group: str, name: str) -> object:
    """Load the object of an entry point. Raises TargetError if there is no such plug-in or it does not load."""
    entries = plugins(group)
    if name not in entries:
        raise TargetError(f"there is no plug-in {name!r} in {group}{suggest(name, entries)}")
    try:
        loaded: object = entries[name].load()
    except (Exception, SystemExit) as error:
        is_extra = isinstance(error, ImportError) and entries[name] not in foreign()
        raise TargetError(
            f"the plug-in {name!r} does not load: {error if is_extra else reason(error)}",
            hint=f"pip install 'flashir[{name}]'" if is_extra else MEND,
        ) from error
    return loaded


def start(group: str, name: str, *protocols: Any) -> Any:
    """An instance of the class that an entry point names.

    Raises TargetError if it does not load or start, or follows none of these protocols.
    """
    kind = load(group, name)
    try:
        plugin: object = kind() if callable(kind) else kind
    except (Exception, SystemExit) as error:
        raise TargetError(f"the plug-in {name!r} does not start: {reason(error)}", hint=MEND) from error
    if not isinstance(plugin, protocols):
        wanted = " or ".join(protocol.__name__ for protocol in protocols)
        raise TargetError(f"the plug-in {name!r} ({plugins(group)[name].value}) does not follow {wanted}", hint=MEND)
    return plugin


def working(group: str, start: Callable[[str], Plugin]) -> tuple[dict[str, Plugin], dict[str, TargetError]]:
    """The plug-ins of a group that `start`, and the errors of the others, by name."""
    started: dict[str, Plugin] = {}
    errors: dict[str, TargetError] = {}
    for name in sorted(plugins(group)):
        try:
            started[name] = start(name)
        except TargetError as error:
            errors[name] = error
    return started, errors


def at_fault(group: str, name: str, problem: str) -> TargetError:
    """The error of a plug-in that raises, or breaks its protocol, after it has loaded."""
    return _failed(plugins(group)[name], problem)


def _failed(entry: EntryPoint, problem: str) -> TargetError:
    return TargetError(
        f"the plug-in {entry.name!r} ({entry.value}) failed: {problem}",
        hint=f"this is a fault of the plug-in; {spoken('the traceback', '`flashir --debug`')} shows where",
    )


def blamed(error: BaseException) -> TargetError | None:
    """An error that names the plug-in that raised `error`; None if no plug-in did.

    Python raises the TypeError of a wrong call outside of the method, so its message is searched for the class.
    """
    modules = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    called = str(error) if isinstance(error, TypeError) else ""
    for entry in foreign():
        if entry.module.partition(".")[0] in modules or (entry.attr and f"{entry.attr}." in called):
            return _failed(entry, reason(error))
    return None


@cache
def foreign() -> tuple[EntryPoint, ...]:
    """The plug-ins of other distributions."""
    groups = (OPS, BACKENDS, FRONTENDS, IMPORTERS, TARGETS)
    entries = (entry for group in groups for entry in installed(group))
    return tuple(entry for entry in entries if entry.dist is None or entry.dist.name != "flashir")


def reason(error: BaseException) -> str:
    """The error message in one line."""
    if isinstance(error, FlashirError):
        return "; ".join(error.problems)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
