"""Profiles: records as calibrated on the machine at hand, kept per device and library versions."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flashir.cost.machine import card_at_hand, cores_at_hand, device_identity, memory_at_hand
from flashir.cost.target import RANGES, Target

SCHEMA = 3


def cache_folder() -> Path:
    """Where profiles and tuning results are kept: `$FLASHIR_CACHE`, else the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("FLASHIR_CACHE")
    return Path(given) if given else user_cache_path("flashir")


def at_hand(record: Target) -> Target:
    """The record for this machine: its memory, and the numbers that were fitted here, else scaled to its cores."""
    here = replace(record.scaled_to(cores_at_hand()), memory=_memory(record))
    path = profile_path(record.name)
    if not path.is_file():
        return here
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA or stored["key"] != profile_key(record):
            return here
        return with_numbers(here, stored["numbers"], f"calibrated on this machine, {stored['date']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the profile {path} cannot be read ({error}); run `flashir calibrate`", stacklevel=2)
        return here


def _memory(record: Target) -> float:
    """Bytes of what the target computes in; those of the record where it is a card that is not at hand."""
    if record.device == "cpu":
        return float(memory_at_hand())
    card = card_at_hand()
    return record.memory if card is None else float(card.memory)


def with_numbers(record: Target, numbers: Mapping[str, float], source: str) -> Target:
    """The record with other numbers, by name (`bandwidth`, `peak.f32`), which have that source.

    Raises ValueError where one is no number, or not one that a device could have.
    """
    changed: dict[str, Any] = {}
    for name, value in numbers.items():
        table, _, key = name.partition(".")
        low, high = RANGES.get(table, (1.0, 0.0))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"{name} = {value!r}")
        if key:
            changed[table] = MappingProxyType({**changed.get(table, getattr(record, table)), key: float(value)})
        else:
            changed[table] = float(value)
    return replace(record, **changed, sources=MappingProxyType({**record.sources, **dict.fromkeys(numbers, source)}))


def profile_path(name: str) -> Path:
    """The file that holds the profile of a target."""
    return cache_folder() / "profiles" / f"{name.replace(':', '-')}.json"


def profile_key(record: Target) -> dict[str, str]:
    """What a profile holds for: the device, and the versions of the libraries that run on it."""
    from flashir.registry import backend as find

    return {"device": device_identity(record.device), **find(record.backend).versions()}
