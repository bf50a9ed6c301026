"""Check the size expressions that PyTorch's loader evaluates as Python: their syntax, and the size of their values.

    Add(Symbol('s27', positive=True, integer=True), Integer(63))        the size of a tensor
    0 <= ((-1)*L['ids'].size()[1]) + 64*max(1, (63 + L['ids'].size()[1]) // 64)        a guard of the inputs

An expression may only name sizes. Powers, digits, nesting and the number of terms are bounded before anything is
evaluated.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from math import prod

LONGEST = 4096
"""Most characters of an expression. The longest of exports have a few hundred."""

MOST_NODES = 1000
DEEPEST = 50
MOST_CHOICES = 10
"""Most maxima and minima in an expression: comparing those of symbols is slow."""

MOST_BITS = 1024
"""Most bits of a value if every symbol has 64."""

MOST_TERMS = 1000
MOST_POWER = 8

_TEXT = re.compile(r"[A-Za-z0-9_ '\[\]().,+*/%<>=!&|~-]*\Z")
_SYMBOL = re.compile(r"s[0-9]{1,9}\Z")
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS = frozenset(("positive", "nonnegative", "negative", "integer", "real"))
_FUNCTIONS = frozenset(
    (
        "max", "min", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv",
        "PythonMod", "CeilDiv", "CleanDiv", "IntTrueDiv", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "StrictLessThan",
        "LessThan", "StrictGreaterThan", "GreaterThan", "Equality", "Unequality", "And", "Or", "Not",
    )
)  # fmt: skip
_CHOICES = frozenset(("max", "min", "Max", "Min"))
_OPERATORS = {
    ast.Add: "Add", ast.Sub: "Add", ast.Mult: "Mul", ast.FloorDiv: "FloorDiv", ast.Mod: "Mod", ast.Pow: "Pow",
    ast.BitAnd: "And", ast.BitOr: "Or",
}  # fmt: skip
_BITS = 64
_ELSE = "names something else than sizes"


class _RefusalError(Exception):
    """An expression is invalid."""


@cache
def problem(text: str) -> str | None:
    """The problem of an expression; None if it is valid."""
    try:
        if len(text) > LONGEST:
            raise _RefusalError(f"has {len(text)} characters, more than {LONGEST}")
        if not _TEXT.match(text):
            raise _RefusalError("is not an expression of sizes")
        _check_nesting(text)
        tree = ast.parse(text, mode="eval")
        nodes = list(ast.walk(tree))
        if len(nodes) > MOST_NODES:
            raise _RefusalError(f"has {len(nodes)} parts, more than {MOST_NODES}")
        if sum(isinstance(node, ast.Name) and node.id in _CHOICES for node in nodes) > MOST_CHOICES:
            raise _RefusalError(f"chooses more than {MOST_CHOICES} times")
        _size(tree.body)
    except _RefusalError as refused:
        return str(refused)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "is not an expression of sizes"
    return None


def _check_nesting(text: str) -> None:
    depth = 0
    for mark in re.findall(r"[\[\]()]", text):
        depth += 1 if mark in "[(" else -1
        if depth > DEEPEST:
            raise _RefusalError(f"is nested deeper than {DEEPEST} levels")
    if re.search(r"(?:[-+~] ?){9}|(?:not ){9}|(?:\*\*[^*]*){9}", text):
        raise _RefusalError("is nested too deeply")


@dataclass(frozen=True)
class _Size:
    """A bound on a value: its bits, and the terms of the expanded sum."""

    bits: int
    terms: int = 1

    def __post_init__(self) -> None:
        if self.bits > MOST_BITS or self.terms > MOST_TERMS:
            raise _RefusalError("becomes too large")


def _size(node: ast.expr) -> _Size:
    """The bound of an expression. Raises _RefusalError if it is not one of sizes, or becomes too large."""
    match node:
        case ast.Constant(value=bool()):
            return _Size(1)
        case ast.Constant(value=int(value)) if value.bit_length() <= _BITS:
            return _Size(max(1, value.bit_length()))
        case ast.Name(id=name) if _SYMBOL.match(name):
            return _Size(_BITS)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not() | ast.Invert(), operand=operand):
            return _size(operand)
        case ast.BinOp(op=operator, left=left, right=right) if type(operator) in _OPERATORS:
            return _called(_OPERATORS[type(operator)], [left, right])
        case ast.BoolOp(values=values):
            return _called("And", values)
        case ast.Compare(left=left, comparators=others):
            return _called("Eq", [left, *others])
        case ast.Subscript(value=ast.Call(func=ast.Attribute(attr="size"), args=[], keywords=[]) as call, slice=axis):
            _check_input(call.func)
            return _axis(axis)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            return _symbol(name, keywords)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            return _called(name, args)
    raise _RefusalError(_ELSE)


def _axis(axis: ast.expr) -> _Size:
    match axis:
        case ast.Constant(value=int(number)) if 0 <= number < DEEPEST:
            return _Size(_BITS)
    raise _RefusalError(_ELSE)


def _symbol(name: str, keywords: list[ast.keyword]) -> _Size:
    known = all(
        keyword.arg in _KEYWORDS and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)
        for keyword in keywords
    )
    if not known or not _SYMBOL.match(name):
        raise _RefusalError(_ELSE)
    return _Size(_BITS)


def _check_input(function: ast.expr) -> None:
    """Raise _RefusalError unless this is `L['ids'].size`, the size of an input."""
    match function:
        case ast.Attribute(value=ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name)))) if (
            _INPUT.match(name)
        ):
            return
    raise _RefusalError(_ELSE)


def _called(name: str, args: list[ast.expr]) -> _Size:
    if name == "Pow" and len(args) == 2:
        base, times = _size(args[0]), _exponent(args[1])
        return _Size(base.bits * times, base.terms**times)
    sizes = [_size(part) for part in args]
    bits = [part.bits for part in sizes]
    if name in ("Mul", "Pow"):
        return _Size(sum(bits), prod(part.terms for part in sizes))
    terms = sum(part.terms for part in sizes) if name == "Add" else 1
    return _Size(max(bits) + len(bits).bit_length(), terms)


def _exponent(node: ast.expr) -> int:
    """A small literal exponent, or -1, which counts as 1."""
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            return _exponent(inner)
        case ast.Constant(value=int(power)) if 0 <= power <= MOST_POWER:
            return max(power, 1)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1)):
            return 1
    raise _RefusalError(f"has a power that is not a number up to {MOST_POWER}")
