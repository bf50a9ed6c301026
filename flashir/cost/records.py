"""Records of targets as TOML: read, and checked as a whole."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from flashir.cost.target import FLAGS, OPTIONAL, RANGES, TABLES, Target, split_name
from flashir.errors import TargetError, suggest


def parse_record(text: str, where: str) -> Target:
    """A record from TOML text, each number as `{value = .., source = ".."}`.

    Raises:
        TargetError: every number that is missing, negative, absurd or without a source.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"the record is not TOML: {error}", where=where) from None
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
        problems += _name_problems(values["name"])
    if problems:
        raise TargetError(problems, where=where)
    return Target(**values, sources=MappingProxyType(sources))


def _numbers(name: str, given: Any, problems: list[str], sources: dict[str, str]) -> Any:
    """A number, a table of numbers, or the three of a tile."""
    if name in TABLES:
        if not isinstance(given, dict):
            problems.append(f"{name} must be a table, got {given!r}")
            return {}
        return MappingProxyType(
            {key: _number(f"{name}.{key}", RANGES[name], each, problems, sources) for key, each in given.items()}
        )
    if name == "tile":
        listed = given.get("value") if isinstance(given, dict) else None
        if not isinstance(listed, list) or len(listed) != 3:
            problems.append(f"tile must hold three sizes, m, n and k, got {given!r}")
            return (1, 1, 1)
        return tuple(int(_number(name, RANGES[name], {**given, "value": n}, problems, sources)) for n in listed)
    return _number(name, RANGES[name], given, problems, sources)


def _number(name: str, bounds: tuple[float, float], given: Any, problems: list[str], sources: dict[str, str]) -> float:
    if not isinstance(given, dict) or set(given) != {"value", "source"}:
        problems.append(f'{name} must be {{value = .., source = ".."}}, got {given!r}')
        return 1.0
    value, source = given["value"], given["source"]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        problems.append(f"{name} must be a number from {bounds[0]:g} to {bounds[1]:g}, got {value!r}")
        return 1.0
    if not isinstance(source, str) or not source.strip():
        problems.append(f"{name} must say its source")
        return 1.0
    sources[name] = source
    return float(value)


def _name_problems(name: str) -> tuple[str, ...]:
    try:
        split_name(name)
    except TargetError as error:
        return error.problems
    return ()
