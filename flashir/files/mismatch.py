"""Reword the validation errors of msgspec.

Expected `int`, got `str` - at `$.trials[0].batch`   ->   trials[0].batch: wanted a whole number, got text
"""

from __future__ import annotations

import re

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_BOUNDS = {">=": "from {} on", "<=": "up to {}", ">": "above {}", "<": "below {}"}
_EXPECTED = re.compile(r"Expected `(?P<kind>[^`]+)`(?P<more>.*?)(?:, got `?(?P<got>[^`]+)`?)?")
_BOUND = re.compile(r" (?P<sign>>=|<=|>|<) (?P<number>\S+)")
_LENGTH = re.compile(r" of length (?P<sign>>=|<=|==)? ?(?P<number>\S+)")


def mismatch(error: Exception) -> str:
    """The message of a `msgspec.ValidationError`: the place, the wanted type, and what was found."""
    problem, _, place = str(error).partition(" - at `")
    place = place.rstrip("`").removeprefix("$").lstrip(".")
    return f"{place}: {_reworded(problem)}" if place else _reworded(problem)


def _reworded(problem: str) -> str:
    if field := re.fullmatch(r"Object missing required field `(.+)`", problem):
        return f"{field[1]} is missing"
    if field := re.fullmatch(r"Object contains unknown field `(.+)`", problem):
        return f"there is no field {field[1]}"
    if value := re.fullmatch(r"Invalid enum value (.+)", problem):
        return f"{value[1]} is not an allowed value"
    match = _EXPECTED.fullmatch(problem)
    if match is None:
        return problem[:1].lower() + problem[1:]
    wanted = " or ".join(_NAMES.get(kind, kind) for kind in match["kind"].split(" | "))
    got = f", got {_NAMES.get(match['got'], match['got'])}" if match["got"] else ""
    return f"wanted {wanted}{_condition(match['more'])}{got}"


def _condition(more: str) -> str:
    if bound := _BOUND.fullmatch(more):
        return f" {_BOUNDS[bound['sign']].format(bound['number'])}"
    if length := _LENGTH.fullmatch(more):
        sign = {">=": "at least ", "<=": "at most "}.get(length["sign"] or "", "")
        return f" of length {sign}{length['number']}"
    return more.replace("matching regex", "that matches")
