"""What msgspec says of a value that is not of the type wanted, in the words of this house.

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
    """The message of a `msgspec.ValidationError`: where it is, what was wanted, what came."""
    said, _, place = str(error).partition(" - at `")
    place = place.rstrip("`").removeprefix("$").lstrip(".")
    return f"{place}: {_said(said)}" if place else _said(said)


def _said(said: str) -> str:
    if field := re.fullmatch(r"Object missing required field `(.+)`", said):
        return f"{field[1]} is missing"
    if field := re.fullmatch(r"Object contains unknown field `(.+)`", said):
        return f"{field[1]} is none of its fields"
    if value := re.fullmatch(r"Invalid enum value (.+)", said):
        return f"{value[1]} is none of the values there are"
    found = _EXPECTED.fullmatch(said)
    if found is None:
        return said[:1].lower() + said[1:]
    wanted = " or ".join(_NAMES.get(kind, kind) for kind in found["kind"].split(" | "))
    got = f", got {_NAMES.get(found['got'], found['got'])}" if found["got"] else ""
    return f"wanted {wanted}{_condition(found['more'])}{got}"


def _condition(more: str) -> str:
    if bound := _BOUND.fullmatch(more):
        return f" {_BOUNDS[bound['sign']].format(bound['number'])}"
    if length := _LENGTH.fullmatch(more):
        sign = {">=": "at least ", "<=": "at most "}.get(length["sign"] or "", "")
        return f" of length {sign}{length['number']}"
    return more.replace("matching regex", "that matches")
