"""flashir targets: the known devices, and their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.results.machine import Number, TargetRecord
    from flashir.cost import Target

UNITS = {
    "peak": (1e12, "Tflop/s"),
    "vector": (1e9, "Gop/s"),
    "bandwidth": (1e9, "GB/s"),
    "cache_bandwidth": (1e9, "GB/s"),
    "cache": (2**20, "MiB"),
    "memory": (2**30, "GiB"),
    "launch": (1e-6, "µs"),
    "step": (1e-6, "µs"),
    "call": (1e-6, "µs"),
    "fresh": (1e9, "GB/s"),
    "all_reduce": (1e9, "GB/s"),
    "slowdown": (1.0, "x"),
}


def targets(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One target, to see every number and its source.")
    ] = None,
    add: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Check the record of a device, and add it to yours.")
    ] = None,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove a record that you added.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the devices that flashir can plan for, and show which of them are available.

    A target is `backend:device`, with `xN` for N devices. `cpu` and `cuda` mean this machine. Planning needs
    neither the backend nor the device. --add stores the record of a device in your configuration folder; a shipped
    record, such as torch-l4.toml, shows what it must have.

    Examples:
        flashir targets
        flashir targets onnx:cpu
        flashir targets jax:tpu-v4x32 --json
        flashir targets --add card.toml
        flashir targets --remove torch:my-card
    """
    from flashir.cli.alone import refuse_others
    from flashir.cli.machine import Presence
    from flashir.errors import TargetError
    from flashir.machine.targets import add_target, is_own, remove_target, target, target_names

    if add is not None:
        refuse_others(ctx, "--add", "--json")
        added = add_target(add)
        if not console.answer({"added": added.name, "title": added.title}, as_json):
            console.say(f"added {added.name}, {added.title}; `flashir targets {added.name}` shows its numbers")
        return
    if remove is not None:
        refuse_others(ctx, "--remove", "--json")
        file = remove_target(remove)
        if not console.answer({"removed": remove, "file": str(file)}, as_json):
            console.say(f"removed {remove}")
        return
    if name is not None:
        record = target(name)
        if as_json:
            console.emit(_as_dict(record, Presence.of(record.backend)))
        else:
            _show_one(record)
        return
    records = []
    for known in target_names():
        try:
            records.append(target(known))
        except TargetError as error:
            console.note(f"{known} is left out: {error}", "yellow")
    presences = {backend: Presence.of(backend) for backend in sorted({record.backend for record in records})}
    if as_json:
        console.emit([_as_dict(record, presences[record.backend]) for record in records])
        return
    right = ("peak f32", "best peak", "bandwidth", "memory")
    table = console.table("target", "", *right, "backend", "device", right=right)
    for record in records:
        presence = presences[record.backend]
        here = record.device in presence.devices
        best = max(record.peak, key=lambda dtype: record.peak[dtype])
        table.add_row(
            record.name,
            record.title,
            _number("peak", record.peak.get("f32", 0.0)),
            f"{_number('peak', record.peak[best])} {best}",
            _number("bandwidth", record.bandwidth),
            console.size(record.memory),
            "installed" if presence.installed else presence.hint or "not installed",
            "at hand" if here else "added by you" if is_own(record.name) else "-",
            style="bold green" if here else None if presence.installed else "dim",
        )
    console.show(table)


def numbers(record: Target) -> dict[str, float]:
    """The numbers of a record by name, such as `peak.f32`."""
    from dataclasses import fields

    by_name: dict[str, float] = {}
    for spec in fields(record):
        value: Any = getattr(record, spec.name)
        if spec.name in ("peak", "slowdown"):
            by_name |= {f"{spec.name}.{key}": number for key, number in value.items()}
        elif spec.name == "tile":
            by_name |= {f"tile.{axis}": size for axis, size in zip("mnk", value, strict=True)}
        elif spec.name in (*record.sources, "devices"):
            by_name[spec.name] = value
    return by_name


def shown(name: str, value: float) -> str:
    """A number with its unit."""
    return _number(name.partition(".")[0], value)


def source_of(record: Target, name: str) -> str:
    """The source of a number."""
    return record.sources.get(name) or record.sources.get(name.partition(".")[0], "")


def _number(name: str, value: float) -> str:
    scale, unit = UNITS.get(name, (1.0, ""))
    return f"{value / scale:,.4g} {unit}".strip()


def _as_dict(record: Target, presence: Any) -> TargetRecord:
    values: dict[str, Number] = {
        n: {"value": value, "source": source_of(record, n)} for n, value in numbers(record).items()
    }
    return {
        "target": record.name,
        "title": record.title,
        "backend": record.backend,
        "device": record.device,
        "installed": presence.installed,
        "at_hand": record.device in presence.devices,
        "fuses": record.fuses,
        "epilogues": record.fuses and record.epilogues,
        "recomputes": record.recomputes,
        "numbers": values,
    }


def _show_one(record: Target) -> None:
    console.say(f"{record.name}  {record.title}", "bold")
    console.say()
    table = console.table("number", "value", "source", right=("value",))
    for name, value in numbers(record).items():
        table.add_row(name, shown(name, value), source_of(record, name))
    console.show(table)
    console.say()
    fusion = "are not fused" if not record.fuses else "are fused" if record.epilogues else "are fused, except products,"
    console.say(f"elementwise ops {fusion} with their neighbours")
