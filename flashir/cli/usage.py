"""Messages for errors of the command line, in the style of the other errors."""

from __future__ import annotations

import re
from typing import Any

from flashir.errors import suggest

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "path": "a path",
    "string": "text",
}
_SIDES = {"greater_than_equal": "a number from {ge} on", "less_than_equal": "a number up to {le}"}
_CHOICES = re.compile(r"is not one of (.+?)\.?$")
_EXTRA = re.compile(r"unexpected extra arguments?(?:\(s\))? \((.+)\)")
_LACKING = re.compile(r"Option '(.+)' requires an argument")
_COMMAND = re.compile(r"No such command '([^']*)'")
_NO_VALUE = re.compile(r"Option '(.+)' does not take a value")
_ABSENT = {
    ("train", "--output"): "it learns the first result of a model; name another one first after `return` in the text",
    ("bench", "--output"): "it runs systems whole; give the text of a model that returns this result alone",
}
"""Why a verb lacks an option that others have, and what to do instead."""


def usage_message(error: Any) -> str:
    """The message for an error of the parser."""
    message, verb = str(error.message), getattr(error.ctx, "info_name", None) or "flashir"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        reason = _ABSENT.get((verb, error.option_name))
        return f"{verb} has no option {error.option_name}{_near(error) if reason is None else f': {reason}'}"
    if kind == "MissingParameter":
        return f"{_name(error.param)} is missing"
    if getattr(error, "param", None) is not None:
        return f"{_name(error.param)} must be {_wanted(error)}"
    if lacking := _LACKING.search(message):
        return f"{lacking[1]} needs a value"
    if flag := _NO_VALUE.search(message):
        return f"{flag[1]} takes no value"
    if extra := _EXTRA.search(message):
        return f"{verb} takes no {extra[1]!r}"
    if command := _COMMAND.search(message):
        return f"there is no verb {command[1]!r}{suggest(command[1], error.ctx.command.commands)}"
    return message


def _name(param: Any) -> str:
    """The name as typed: the longest spelling of an option, or the metavar of an argument."""
    return max(param.opts, key=len) if param.param_type_name == "option" else str(param.metavar or param.name).upper()


def _near(error: Any) -> str:
    known = [name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts)]
    near = suggest(error.option_name, [name for name in known if name.startswith("--")])
    return near if "did you mean" in near else ""


def _wanted(error: Any) -> str:
    """What the value of a parameter must be, and what was given."""
    problems: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not problems:
        return f"another: {error.message}"
    first = problems[0]
    actual = f", got {first['input']!r}"
    if choices := _CHOICES.search(first["msg"]):
        return f"one of {choices[1].replace(chr(39), '')}{actual}"
    if side := _SIDES.get(first["type"]):
        return f"{side.format(**first['ctx'])}{actual}"
    wanted = _KINDS.get(first["type"].partition("_")[0]) or str(first["msg"]).lower()
    return wanted + actual
