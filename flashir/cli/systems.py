"""The systems that `flashir compare` compares, and how to make them with settings that not all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flashir.compare.entrants import Build, fitted
from flashir.errors import SettingError, suggest
from flashir.ir import Graph
from flashir.ir.parameter_count import parameter_count
from flashir.models.load import accepted
from flashir.models.load import model as built

FLASH = "flash"
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    FLASH: ("flash", {}),
    "flash-quad": ("flash-quad", {}),
    "transformer++": ("transformer++", {}),
    "transformer": ("transformer", {}),
    "performer": ("performer", {}),
    "mc-transformer++": ("mc-transformer++", {}),
    "flash local-only": ("flash", {"use_global": False}),
    "flash global-only": ("flash", {"use_local": False}),
}
"""Each system: its model, and the settings that make it what it is."""


def chosen(names: Sequence[str] | None) -> list[str]:
    """The names of the systems to compare; all by default. Raises SettingError that lists every unknown one."""
    unknown = [f"unknown system {name!r}{suggest(name, SYSTEMS)}" for name in names or () if name not in SYSTEMS]
    if unknown:
        raise SettingError(unknown, where="--system", hint=f"the systems are {', '.join(SYSTEMS)}")
    return list(dict.fromkeys(names or SYSTEMS))


def shaped(names: Sequence[str], depth: int, width: int, settings: Mapping[str, Any]) -> dict[str, Graph]:
    """The systems, with as many parameters as FLASH has with a depth and a width.

    Args:
        names: names in SYSTEMS.
        depth, width: the shape of FLASH.
        settings: settings of all systems that have them.

    Raises:
        SettingError: no system has a setting, or not with its value.
    """
    flash = build(FLASH, settings)(depth, width)
    return fitted(parameter_count(flash), {name: build(name, settings) for name in names}, depth, width)


def build(name: str, settings: Mapping[str, Any]) -> Build:
    """How to make a system of a depth and a width. Raises SettingError that lists the settings that no system has."""
    known = {system: accepted(SYSTEMS[system][0], settings) for system in SYSTEMS}
    if odd := [key for key in settings if not any(key in accepting for accepting in known.values())]:
        problems = [f"no system has the setting {key}={str(settings[key]).lower()}" for key in odd]
        raise SettingError(problems, where="-s")
    return partial(_built, name, {**known[name], **SYSTEMS[name][1]})


def _built(name: str, settings: Mapping[str, Any], depth: int, width: int, **own: Any) -> Graph:
    return built(SYSTEMS[name][0], **{"task": "lm", **settings, "depth": depth, "d_model": width, **own})
