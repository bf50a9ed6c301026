"""Targets by name: the records that backends and other plug-ins bring, made to fit the machine at hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from flashir.backends.registry import backends
from flashir.cost.target import Target, split_name
from flashir.cost.target_files import name_of, parse_record
from flashir.errors import TargetError, suggest
from flashir.machine.profile import at_hand
from flashir.plugins import TARGETS, load, plugins


@runtime_checkable
class BringsTargets(Protocol):
    """A backend that brings target records."""

    records: ClassVar[Path]
    """The folder of its records, `BACKEND-DEVICE.toml` each."""


def target(name: str, *, calibrated: bool = True) -> Target:
    """The record of a target: for the machine at hand as last calibrated, else as shipped.

    Args:
        name: such as `onnx:cpu`, `torch:h200` or `jax:tpu-v4x32`.
        calibrated: with the numbers that were fitted on this machine, where there are some.

    Raises:
        TargetError: the name is malformed or unknown, the record is malformed, or two plug-ins bring it.
    """
    backend, device, devices = split_name(name)
    key = f"{backend}:{device}"
    known = target_names()
    if key not in known:
        raise TargetError(f"unknown target {key!r}{suggest(key, known)}", hint="`flashir targets` lists them all")
    path, *others = record_files()[key]
    if others:
        raise TargetError(
            f"the record of {key} stands in {path} and in {' and in '.join(map(str, others))}",
            hint="uninstall all plug-ins but one that bring it",
        )
    found = _record(path)
    if not found.is_here:
        return replace(found, name=name, devices=devices)
    if devices > 1:
        raise TargetError(f"{key} is the machine at hand, of which there is one, got {name!r}")
    return at_hand(found, calibrated=calibrated)


def target_names() -> tuple[str, ...]:
    """Every target with a record, without counts of devices."""
    return tuple(sorted(record_files()))


@cache
def record_files() -> dict[str, tuple[Path, ...]]:
    """The files with the record of each target; more than one where plug-ins disagree."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in dict.fromkeys((*_of_backends(), *_of_plugins())):
        for path in sorted(folder.glob("*.toml")):
            found[name_of(path.name)] = (*found.get(name_of(path.name), ()), path)
    return found


def _of_backends() -> list[Path]:
    return [backend.records for backend in backends() if isinstance(backend, BringsTargets)]


def _of_plugins() -> list[Path]:
    """The folders of plug-ins that load; what is wrong with another, `flashir doctor` says."""
    found = []
    for name in plugins(TARGETS):
        try:
            found.append(records_of(name))
        except TargetError:
            continue
    return found


def records_of(plugin: str) -> Path:
    """The folder of target records that a plug-in names. Raises TargetError where it is none."""
    folder = load(TARGETS, plugin)
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise TargetError(f"the plug-in {plugin!r} of {TARGETS} must name a folder of records, got {folder!r}")
    return Path(folder)


@cache
def _record(path: Path) -> Target:
    return parse_record(path.read_text(encoding="utf-8"), path.name)
