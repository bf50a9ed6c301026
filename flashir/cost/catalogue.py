"""Targets by name: the records that are shipped, made to fit the machine at hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from flashir.cost.profile import at_hand
from flashir.cost.records import name_of, parse_record
from flashir.cost.target import Target, split_name
from flashir.errors import TargetError, suggest

RECORDS = Path(__file__).parent / "targets"


def target(name: str, *, calibrated: bool = True) -> Target:
    """The record of a target: for the machine at hand as last calibrated, else as shipped.

    Args:
        name: such as `onnx:cpu`, `torch:h200` or `jax:tpu-v4x32`.
        calibrated: with the numbers that were fitted on this machine, where there are some.

    Raises:
        TargetError: the name is malformed or unknown, or the record is.
    """
    backend, device, devices = split_name(name)
    key = f"{backend}:{device}"
    known = target_names()
    if key not in known:
        raise TargetError(f"unknown target {key!r}{suggest(key, known)}", mend="`flashir targets` lists them all")
    found = _record(key)
    if not found.is_here:
        return replace(found, name=name, devices=devices)
    if devices > 1:
        raise TargetError(f"{key} is the machine at hand, of which there is one, got {name!r}")
    return at_hand(found, calibrated=calibrated)


def target_names() -> tuple[str, ...]:
    """Every target with a record, without counts of devices."""
    return tuple(sorted(name_of(path.name) for path in RECORDS.glob("*.toml")))


@cache
def _record(key: str) -> Target:
    path = RECORDS / f"{key.replace(':', '-')}.toml"
    return parse_record(path.read_text(encoding="utf-8"), path.name)
