"""Profiles: target records calibrated on this machine, stored per device and library versions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from flashir.cost.target import RANGES, Target
from flashir.errors import ArtefactError, TargetError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import reason
from flashir.files.sealed_json import digest, is_whole
from flashir.machine.hardware import available_cores, device_identity, first_card
from flashir.machine.memory import total_memory
from flashir.machine.microbenchmarks import TOLD

SCHEMA = 5
CALIBRATED = "calibrated on this machine"
"""How the source of a number begins that a profile has."""


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    """A stored calibration, with a digest.

    Args:
        schema: the schema of the file.
        date: the date of the calibration.
        key: what it is valid for; see `profile_key`.
        numbers: the fitted numbers by name.
        sha256: the digest; see `sealed_json`.
    """

    schema: int
    date: date
    key: dict[str, str]
    numbers: dict[str, float]
    sha256: str = ""

    def __post_init__(self) -> None:
        """Compute the digest of a new profile; that of a file is verified against its content."""
        self.sha256 = self.sha256 or digest(msgspec.to_builtins(self))


def cache_folder() -> Path:
    """The folder of profiles and tuning results: `$FLASHIR_CACHE` or the user's cache folder."""
    from platformdirs import user_cache_path

    configured = os.environ.get("FLASHIR_CACHE")
    return Path(configured) if configured else user_cache_path("flashir")


@contextmanager
def in_cache() -> Iterator[None]:
    """Add the hint to set FLASHIR_CACHE to an ArtefactError."""
    try:
        yield
    except ArtefactError as error:
        hint = "set FLASHIR_CACHE to a folder that can be written"
        raise ArtefactError(error.problems, where=error.where, hint=hint) from error


def for_this_machine(record: Target, *, calibrated: bool = True) -> Target:
    """Adapt a record to this machine: its memory, its cores, and if `calibrated` the numbers of its profile.

    A profile that is damaged or of another version is ignored with a warning.
    """
    here = replace(record.scaled_to(available_cores()), memory=_memory(record))
    if not calibrated:
        return here
    path = profile_path(record.name)
    try:
        fields = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if fields.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}: another version of flashir wrote it, or it is damaged")
        stored = msgspec.convert(fields, Profile)
        if not is_whole(fields):
            raise ValueError("it is damaged, or was changed: its sha256 does not match its content")
        if stored.key != profile_key(record):
            return here
        if unknown := sorted(stored.numbers.keys() - TOLD):
            raise ValueError(f"calibration fits no {', '.join(unknown)}")
        return with_numbers(here, stored.numbers, f"{CALIBRATED}, {stored.date}")
    except (FileNotFoundError, NotADirectoryError, TargetError):  # never calibrated, or its libraries are gone
        return here
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        hint = f"run `flashir calibrate {record.name}`"
        warnings.warn(f"the profile {path} cannot be read: {reason(error)}; {hint}", stacklevel=2)
        return here


def has_profile(record: Target) -> bool:
    """Whether there is a profile for this device and these library versions, or one that cannot be read.

    Raises TargetError if the backend is not installed.
    """
    key = profile_key(record)
    try:
        fields = msgspec.json.decode(profile_path(record.name).read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, msgspec.MsgspecError, RecursionError):
        return True
    return fields.get("schema") != SCHEMA or fields.get("key") == key


def write_profile(record: Target, numbers: Mapping[str, float]) -> None:
    """Store the numbers for this device and these library versions. Raises ArtefactError."""
    profile = Profile(SCHEMA, datetime.now(UTC).date(), profile_key(record), dict(numbers))
    text = msgspec.json.format(msgspec.json.encode(profile), indent=2)
    atomic_write(profile_path(record.name), lambda file: file.write(text))


def _memory(record: Target) -> float:
    """Bytes of the memory of the target; for a GPU that is not available, those of the record."""
    if record.device == "cpu":
        return float(total_memory())
    card = first_card()
    return record.memory if card is None else float(card.memory)


def with_numbers(record: Target, numbers: Mapping[str, float], source: str) -> Target:
    """Replace numbers of a record by name (`bandwidth`, `peak.f32`), and set their source.

    Raises ValueError with every number that is out of range.
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
    """The key of a profile: the device, and the versions of its libraries."""
    from flashir.backends.registry import backend as find

    return {"device": device_identity(record.device), **find(record.backend).versions()}
