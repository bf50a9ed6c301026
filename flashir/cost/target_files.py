"""Read target records from TOML, and check them as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flashir.cost.target import FLAGS, OPTIONAL, RANGES, TABLES, Target, split_name
from flashir.errors import TargetError, suggest
from flashir.files.foreign import parse_toml
from flashir.ir.types import DType
from flashir.ops import OPS, all_ops

FLOATS = [str(dtype) for dtype in DType if dtype.is_float]

APART = 1000
"""The largest plausible ratio between the peak rates of two dtypes."""


def name_of(file: str) -> str:
    """The name of the target in a file: `jax:tpu-v4` for `jax-tpu-v4.toml`."""
    return file.removesuffix(".toml").replace("-", ":", 1)


def file_of(name: str) -> str:
    """The file of a target: `jax-tpu-v4.toml` for `jax:tpu-v4`."""
    return f"{name.replace(':', '-', 1)}.toml"


def parse_record(text: str, where: str, *, named: bool = True) -> Target:
    """Parse a record from TOML text, each number as `{value = .., source = ".."}`.

    Args:
        text: the content of the file.
        where: the file.
        named: whether the name of the file determines the name of the target.

    Raises:
        TargetError: lists every number that is missing, out of range, inconsistent with another or without a source,
            and every unknown name.
    """
    table = parse_toml(text, where, TargetError, problem="the record is not TOML")
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ("name", "title", *FLAGS):
        if name in OPTIONAL and name not in table:
            continue
        kind = bool if name in FLAGS else str
        values[name] = table.pop(name, None)
        if not isinstance(values[name], kind):
            problems.append(f"{name} must be a {kind.__name__}, got {values[name]!r}")
    for spec in fields(Target):
        if spec.name in RANGES and spec.name in table:
            values[spec.name] = _numbers(spec.name, table.pop(spec.name), problems, sources)
        elif spec.name in RANGES and spec.name not in OPTIONAL:
            problems.append(f"{spec.name} is missing")
    problems += [f"there is no number {name!r}{suggest(name, RANGES)}" for name in table]
    if isinstance(values["name"], str):
        problems += _name_problems(values["name"], name_of(Path(where).name) if named else None)
    problems += _at_odds(values)
    if problems:
        raise TargetError(problems, where=where)
    return Target(**values, sources=MappingProxyType(sources))


def _numbers(name: str, raw: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """A number, a table of numbers, or the three sizes of a tile. NaN if invalid, which passes every later check."""
    if name in TABLES:
        if not isinstance(raw, dict):
            problems.append(f"{name} must be a table, got {raw!r}")
            return {}
        ops = OPS if raw.keys() <= OPS.keys() else {op.name for op in all_ops()}
        known = FLOATS if name == "peak" else list(ops)
        problems += [f"there is no {name}.{key}{suggest(key, known)}" for key in raw if key not in known]
        if name == "peak" and "f32" not in raw:
            problems.append("peak.f32 is missing")
        return MappingProxyType(
            {key: _number(f"{name}.{key}", entry, problems, sources) for key, entry in raw.items() if key in known}
        )
    if name == "tile":
        tile = _value(name, raw, problems, sources)
        if tile is None:
            return (1, 1, 1)
        if not isinstance(tile, list) or len(tile) != 3:
            problems.append(f"tile must hold three sizes, m, n and k, got {tile!r}")
            return (1, 1, 1)
        return tuple(_within(name, size, problems, whole=True) for size in tile)
    return _number(name, raw, problems, sources)


def _number(name: str, raw: Any, problems: list[str], sources: dict[str, str]) -> float:
    value = _value(name, raw, problems, sources)
    return nan if value is None else _within(name, value, problems)


def _value(name: str, raw: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """The value of an entry with its source recorded; None if the entry is malformed."""
    if not isinstance(raw, dict) or set(raw) != {"value", "source"}:
        problems.append(f'{name} must be {{value = .., source = ".."}}, got {raw!r}')
        return None
    value, source = raw["value"], raw["source"]
    if not isinstance(source, str) or not source.strip():
        problems.append(f"{name} must say its source")
        return None
    sources[name] = source
    return value


def _within(name: str, value: Any, problems: list[str], *, whole: bool = False) -> float:
    low, high = RANGES[name.partition(".")[0]]
    if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        problems.append(f"{name} must be {what} from {low:g} to {high:g}, got {value!r}")
        return nan
    return value if whole else float(value)


def _name_problems(name: str, wanted: str | None) -> tuple[str, ...]:
    """The problems of a name that must be the wanted one, or that of any one device."""
    try:
        backend, device, _ = split_name(name)
    except TargetError as error:
        return error.problems
    if name == f"{backend}:{device}" and wanted in (None, name):  # a record describes one device
        return ()
    reason = (
        f"that of one device, {f'{backend}:{device}'!r}" if wanted is None else f"{wanted!r}, as its file is called"
    )
    return (f"name must be {reason}, got {name!r}",)


def _at_odds(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield numbers that contradict each other."""
    cache, memory = values.get("cache", nan), values.get("memory", nan)
    if cache > memory:
        yield f"cache must not be larger than memory, {memory:g}, got {cache:g}"
    near, far = values.get("cache_bandwidth", nan), values.get("bandwidth", nan)
    if near < far:
        yield f"cache_bandwidth must not be below bandwidth, {far:g}, got {near:g}"
    peak = values.get("peak", {})
    single = peak.get("f32", nan)
    for dtype, rate in peak.items():
        if rate > single * APART or rate < single / APART:
            yield f"peak.{dtype} must be {1 / APART:g} to {APART} times peak.f32, {single:g}, got {rate:g}"
