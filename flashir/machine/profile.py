"""Profiles: records as calibrated on the machine at hand, kept per device and library versions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from flashir.cost.target import RANGES, Target
from flashir.errors import ArtefactError, TargetError
from flashir.files.foreign import reason
from flashir.files.sealed_json import digest, is_whole
from flashir.machine.hardware import card_at_hand, cores_at_hand, device_identity
from flashir.machine.memory import memory_at_hand
from flashir.machine.microbenchmarks import kernels

SCHEMA = 5


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept of a calibration, with a digest of it.

    Args:
        schema: of this file.
        date: when it was made.
        key: what it holds for, as `profile_key` has it.
        numbers: those that were fitted, by name.
        sha256: the digest, see `sealed_json`.
    """

    schema: int
    date: date
    key: dict[str, str]
    numbers: dict[str, float]
    sha256: str = ""

    def __post_init__(self) -> None:
        """A record that is made here carries its digest; that of a file is held against what the file says."""
        self.sha256 = self.sha256 or digest(msgspec.to_builtins(self))


def cache_folder() -> Path:
    """Where profiles and tuning results are kept: `$FLASHIR_CACHE`, else the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("FLASHIR_CACHE")
    return Path(given) if given else user_cache_path("flashir")


@contextmanager
def in_cache() -> Iterator[None]:
    """Has what cannot be written to the cache say how to have another one."""
    try:
        yield
    except ArtefactError as error:
        hint = "set FLASHIR_CACHE to a folder that can be written"
        raise ArtefactError(error.problems, where=error.where, hint=hint) from error


def at_hand(record: Target, *, calibrated: bool = True) -> Target:
    """The record for this machine: its memory, and where `calibrated` the numbers fitted here; scaled to its cores.

    A profile that is damaged, or of another version, is left out with a warning.
    """
    here = replace(record.scaled_to(cores_at_hand()), memory=_memory(record))
    if not calibrated:
        return here
    path = profile_path(record.name)
    try:
        said = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if said.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}: another version of flashir wrote it, or it is damaged")
        stored = msgspec.convert(said, Profile)
        if not is_whole(said):
            raise ValueError("it is damaged, or was changed: its sha256 is not that of what it says")
        if stored.key != profile_key(record):
            return here
        told = {kernel.tells for kernel in kernels(record.device)}
        if strange := sorted(stored.numbers.keys() - told):
            raise ValueError(f"calibration tells no {', '.join(strange)}")
        return with_numbers(here, stored.numbers, f"calibrated on this machine, {stored.date}")
    except (FileNotFoundError, NotADirectoryError, TargetError):  # never made, or its libraries are gone
        return here
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        hint = f"run `flashir calibrate {record.name}`"
        warnings.warn(f"the profile {path} cannot be read: {reason(error)}; {hint}", stacklevel=2)
        return here


def _memory(record: Target) -> float:
    """Bytes of what the target computes in; those of the record where it is a card that is not at hand."""
    if record.device == "cpu":
        return float(memory_at_hand())
    card = card_at_hand()
    return record.memory if card is None else float(card.memory)


def with_numbers(record: Target, numbers: Mapping[str, float], source: str) -> Target:
    """The record with other numbers, by name (`bandwidth`, `peak.f32`), which have that source.

    Raises ValueError with every number that no device could have.
    """
    changed: dict[str, Any] = {}
    wrong = []
    for name, value in numbers.items():
        table, _, key = name.partition(".")
        low, high = RANGES.get(table, (1.0, 0.0))
        if not low <= value <= high:
            wrong.append(f"{name} = {value!r}")
        elif key:
            changed[table] = MappingProxyType({**changed.get(table, getattr(record, table)), key: float(value)})
        else:
            changed[table] = float(value)
    if wrong:
        raise ValueError(f"no device has {', '.join(wrong)}")
    return replace(record, **changed, sources=MappingProxyType({**record.sources, **dict.fromkeys(numbers, source)}))


def profile_path(name: str) -> Path:
    """The file that holds the profile of a target."""
    return cache_folder() / "profiles" / f"{name.replace(':', '-')}.json"


def profile_key(record: Target) -> dict[str, str]:
    """What a profile holds for: the device, and the versions of the libraries that run on it."""
    from flashir.backends.registry import backend as find

    return {"device": device_identity(record.device), **find(record.backend).versions()}
