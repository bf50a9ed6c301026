"""Records of targets as TOML: read, and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import nan
from types import MappingProxyType
from typing import Any

from flashir.cost.target import FLAGS, OPTIONAL, RANGES, TABLES, Target, split_name
from flashir.errors import TargetError, suggest
from flashir.files.foreign import parse_toml
from flashir.ir.types import DType
from flashir.ops import OPS, all_ops

FLOATS = [str(dtype) for dtype in DType if dtype.is_float]

APART = 1000
"""How many times as fast products of one type may be as those of float32, or as slow: no device is further apart."""


def name_of(file: str) -> str:
    """The target whose record a file holds: `jax:tpu-v4` for `jax-tpu-v4.toml`."""
    return file.removesuffix(".toml").replace("-", ":", 1)


def parse_record(text: str, where: str) -> Target:
    """A record from TOML text, each number as `{value = .., source = ".."}`.

    Args:
        text: the content of its file.
        where: the name of its file, which says what the target is called.

    Raises:
        TargetError: every number that is missing, negative, absurd, at odds with another or without a source, and
            every name that means nothing.
    """
    table = parse_toml(text, where, TargetError, problem="the record is not TOML")
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ("name", "title", *FLAGS):
        if name in OPTIONAL and name not in table:
            continue
        wanted = bool if name in FLAGS else str
        values[name] = table.pop(name, None)
        if not isinstance(values[name], wanted):
            problems.append(f"{name} must be a {wanted.__name__}, got {values[name]!r}")
    for spec in fields(Target):
        if spec.name in RANGES and spec.name in table:
            values[spec.name] = _numbers(spec.name, table.pop(spec.name), problems, sources)
        elif spec.name in RANGES and spec.name not in OPTIONAL:
            problems.append(f"{spec.name} is missing")
    problems += [f"there is no number {name!r}{suggest(name, RANGES)}" for name in table]
    if isinstance(values["name"], str):
        problems += _name_problems(values["name"], name_of(where))
    problems += _at_odds(values)
    if problems:
        raise TargetError(problems, where=where)
    return Target(**values, sources=MappingProxyType(sources))


def _numbers(name: str, given: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """A number, a table of numbers, or the three of a tile; nan for what is none, which is at odds with nothing."""
    if name in TABLES:
        if not isinstance(given, dict):
            problems.append(f"{name} must be a table, got {given!r}")
            return {}
        ops = OPS if given.keys() <= OPS.keys() else {op.name for op in all_ops()}
        known = FLOATS if name == "peak" else list(ops)
        problems += [f"there is no {name}.{key}{suggest(key, known)}" for key in given if key not in known]
        if name == "peak" and "f32" not in given:
            problems.append("peak.f32 is missing")
        return MappingProxyType(
            {key: _number(f"{name}.{key}", each, problems, sources) for key, each in given.items() if key in known}
        )
    if name == "tile":
        listed = _value(name, given, problems, sources)
        if listed is None:
            return (1, 1, 1)
        if not isinstance(listed, list) or len(listed) != 3:
            problems.append(f"tile must hold three sizes, m, n and k, got {listed!r}")
            return (1, 1, 1)
        return tuple(_within(name, size, problems, whole=True) for size in listed)
    return _number(name, given, problems, sources)


def _number(name: str, given: Any, problems: list[str], sources: dict[str, str]) -> float:
    value = _value(name, given, problems, sources)
    return nan if value is None else _within(name, value, problems)


def _value(name: str, given: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """What stands beside a source; None where there is no source."""
    if not isinstance(given, dict) or set(given) != {"value", "source"}:
        problems.append(f'{name} must be {{value = .., source = ".."}}, got {given!r}')
        return None
    value, source = given["value"], given["source"]
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


def _name_problems(name: str, wanted: str) -> tuple[str, ...]:
    try:
        backend, device, _ = split_name(name)
    except TargetError as error:
        return error.problems
    if name == wanted == f"{backend}:{device}":  # a record is that of one device
        return ()
    return (f"name must be {wanted!r}, as its file is called, got {name!r}",)


def _at_odds(values: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that no device has at once."""
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
