"""Find targets by name: records of backends, of plug-ins and of the user, adapted to this machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from flashir.backends.registry import backends, broken_backends
from flashir.cost.target import Target, split_name
from flashir.cost.target_files import name_of, parse_record
from flashir.errors import TargetError, suggest
from flashir.files.foreign import SMALL, read_text
from flashir.machine.own_records import add_record, own_records, remove_record
from flashir.machine.profile import for_this_machine
from flashir.plugins import TARGETS, load, working


@runtime_checkable
class BringsTargets(Protocol):
    """A backend with its own target records."""

    records: ClassVar[Path]
    """The folder of its records, named `BACKEND-DEVICE.toml`."""


def target(name: str, *, calibrated: bool = True) -> Target:
    """The record of a target: as last calibrated if it is this machine, otherwise as shipped.

    Args:
        name: such as `onnx:cpu`, `torch:h200` or `jax:tpu-v4x32`.
        calibrated: use the numbers that were fitted on this machine, if there are any.

    Raises:
        TargetError: the name is malformed or unknown, the record is malformed, or two plug-ins provide it.
    """
    backend, device, devices = split_name(name)
    key = f"{backend}:{device}"
    known = target_names()
    if key not in known:
        problems = [f"unknown target {key!r}{suggest(key, known)}"]
        if (error := broken_backends().get(backend)) is not None:  # its records are not known either
            problems += error.problems
        raise TargetError(problems, hint="`flashir targets` lists them all")
    path, *others = record_files()[key]
    if others:
        raise TargetError(
            f"the record of {key} is in {path} and in {' and in '.join(map(str, others))}",
            hint="uninstall all but one of the plug-ins that provide it"
            + (", or remove your own record" if is_own(key) else ""),
        )
    record = _record(path)
    if not record.is_here:
        return replace(record, name=name, devices=devices)
    if devices > 1:
        raise TargetError(f"{key} is this machine, so there is only one, got {name!r}")
    return for_this_machine(record, calibrated=calibrated)


def add_target(file: Path) -> Target:
    """Add a record to those of the user, and return it. Raises TargetError with all its problems, ArtefactError."""
    record = add_record(file, frozenset(name for name in target_names() if not is_own(name)))
    record_files.cache_clear()
    _record.cache_clear()
    return record


def remove_target(name: str) -> Path:
    """Remove a record that the user added, and return its former file. Raises TargetError, ArtefactError."""
    path = remove_record(name)
    record_files.cache_clear()
    return path


def is_own(name: str) -> bool:
    """Whether the user added the record of a target."""
    return any(path.parent == own_records() for path in record_files()[name])


def target_names() -> tuple[str, ...]:
    """Every target with a record, without device counts."""
    return tuple(sorted(record_files()))


@cache
def record_files() -> dict[str, tuple[Path, ...]]:
    """The record files of each target; more than one if several plug-ins provide it."""
    files: dict[str, tuple[Path, ...]] = {}
    for folder in dict.fromkeys((*_of_backends(), *_of_plugins(), own_records())):
        for path in sorted(folder.glob("*.toml")):
            files[name_of(path.name)] = (*files.get(name_of(path.name), ()), path)
    return files


def _of_backends() -> list[Path]:
    return [backend.records for backend in backends() if isinstance(backend, BringsTargets)]


def _of_plugins() -> list[Path]:
    """The folders of plug-ins that load. `flashir doctor` reports the others."""
    return list(working(TARGETS, records_of)[0].values())


def records_of(plugin: str) -> Path:
    """The folder of target records of a plug-in. Raises TargetError if it is not a folder."""
    folder = load(TARGETS, plugin)
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise TargetError(f"the plug-in {plugin!r} of {TARGETS} must name a folder of records, got {folder!r}")
    return Path(folder)


def read_record(path: Path) -> Target:
    """The record in a file. Raises TargetError if it cannot be read or something is wrong in it."""
    return parse_record(read_text(path, TargetError, largest=SMALL, problem="the record cannot be read"), str(path))


_record = cache(read_record)
