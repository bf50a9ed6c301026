"""The path of the measurement store, and the machine that a measurement is valid for.

Separate from the store, so that a plan without measurements does not load SQLite.
"""

from __future__ import annotations

import json
from pathlib import Path

from flashir.cost.target import Target
from flashir.machine.hardware import device_identity
from flashir.machine.profile import cache_folder

NAME = "tune.sqlite"


def store_path() -> Path:
    """The path of this user's store."""
    return cache_folder() / NAME


def where(record: Target) -> dict[str, str]:
    """What a measurement is valid for: `target`, `device`, `versions`. Raises TargetError if the backend is missing."""
    from flashir.backends.registry import backend

    versions = json.dumps(backend(record.backend).versions(), sort_keys=True)
    return {"target": record.name, "device": device_identity(record.device), "versions": versions}
