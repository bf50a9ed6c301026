"""The store of measurements (in the making)."""

from __future__ import annotations

from typing import Any


def with_measurements(candidates: Any, graph: Any, record: Any, workload: Any) -> Any:
    return candidates
