"""Where measurements are kept, and where they hold.

Apart from the store itself, so that a plan without measurements loads no SQLite.
"""

from __future__ import annotations

import json
from pathlib import Path

from flashir.cost.target import Target
from flashir.machine.hardware import device_identity
from flashir.machine.profile import cache_folder

NAME = "tune.sqlite"


def store_path() -> Path:
    """Where the store of this user is."""
    return cache_folder() / NAME


def where(record: Target) -> dict[str, str]:
    """What a measurement holds for: `target`, `device` and `versions`. Raises TargetError without the backend."""
    from flashir.backends.registry import backend

    versions = json.dumps(backend(record.backend).versions(), sort_keys=True)
    return {"target": record.name, "device": device_identity(record.device), "versions": versions}
