"""What this machine has: backends, devices, libraries, the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from flashir.errors import FlashirError


@dataclass(frozen=True)
class Presence:
    """Whether a backend is there.

    Args:
        name: of the backend.
        installed: whether it loads, and its framework with it.
        devices: those at hand.
        versions: of its libraries.
        problem, hint: what is wrong, and what to do about it.
        is_optional: whether the base install leaves out its framework.
    """

    name: str
    installed: bool
    devices: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    hint: str = ""
    is_optional: bool = False

    @staticmethod
    @cache
    def of(name: str) -> Presence:
        """Look for a backend; nothing is raised."""
        from flashir.backends.registry import backend, backend_names

        if name not in backend_names():
            return Presence(name, False, problem="this version of flashir has no such backend", hint="not available")
        try:
            found = backend(name)
        except FlashirError as error:
            return Presence(name, False, problem="; ".join(error.problems), hint=error.hint)
        optional = bool(found.extra)
        try:
            versions = tuple(found.versions().items())
            return Presence(name, True, found.devices(), versions)
        except FlashirError as error:
            return Presence(name, False, (), (), "; ".join(error.problems), error.hint, optional)
        except ImportError as error:
            return Presence(name, False, (), (), str(error), f"pip install 'flashir[{name}]'", optional)
