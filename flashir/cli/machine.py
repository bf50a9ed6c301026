"""Which backends and devices this machine has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from flashir.errors import FlashirError


@dataclass(frozen=True)
class Presence:
    """Whether a backend is installed, and its devices.

    Args:
        name: the name of the backend.
        installed: whether it loads together with its framework.
        devices: the available devices.
        versions: the versions of its libraries.
        problem, hint: what is wrong and how to fix it.
        is_optional: whether its framework is not part of the base install.
        lack: what its own kernels lack on this machine; empty if nothing.
    """

    name: str
    installed: bool
    devices: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    hint: str = ""
    is_optional: bool = False
    lack: str = ""

    @staticmethod
    @cache
    def of(name: str) -> Presence:
        """Look for a backend. Raises nothing."""
        from flashir.backends.protocols import Remarking
        from flashir.backends.registry import backend, backend_names

        if name not in backend_names():
            return Presence(name, False, problem="this version of flashir has no such backend", hint="not available")
        try:
            loaded = backend(name)
        except FlashirError as error:
            return Presence(name, False, problem="; ".join(error.problems), hint=error.hint)
        optional = bool(loaded.extra)
        try:
            versions = tuple(loaded.versions().items())
            lack = loaded.condition() if isinstance(loaded, Remarking) else ""
            return Presence(name, True, loaded.devices(), versions, lack=lack)
        except FlashirError as error:
            return Presence(name, False, (), (), "; ".join(error.problems), error.hint, optional)
        except ImportError as error:
            return Presence(name, False, (), (), str(error), f"pip install 'flashir[{name}]'", optional)
