"""IR text -> statements, types and sizes, by the rules of `grammar.lark`. Errors have line:column and what may follow.

`parser.py` builds the graph from the statements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flashir.errors import FlashirError, IRError
from flashir.files.foreign import parse_json
from flashir.ir.dims import LARGEST_COEFFICIENT, Dim, Size, ceildiv, symbol
from flashir.ir.graph import AUTO, Attr
from flashir.ir.limits import LONGEST_TEXT
from flashir.ir.types import DTYPE_NAMES, DType, TensorType

DEEPEST = 64
_BRACKETS = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|[\[({]|[\])}]')


def parse_type(text: str) -> TensorType:
    """A type such as `f32[B, T, 768]`. Raises IRError."""
    result: TensorType = parse(text, "type", "")
    return result


@cache
def parse_size(text: str) -> Size:
    """A size such as `4*i + 2`. Raises IRError."""
    return _size(parse(text, "size", ""))


@dataclass(frozen=True)
class Place:
    """A line and column in a text, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True)
class Statement:
    """A parsed statement: `%a, %b = op(%x, name = %y) {attr = 1} (%h) { .. yield %z } : type, type`."""

    results: tuple[Any, ...]
    op: Any
    operands: tuple[tuple[str | None, Any], ...]
    attrs: tuple[tuple[Any, Attr], ...]
    region: tuple[tuple[Any, ...], tuple[Statement, ...], tuple[Any, ...]] | None
    types: tuple[TensorType, ...] | None


@dataclass(frozen=True)
class Model:
    """A parsed model: `model @name(%x: type) -> types { statements return %y }`."""

    name: Any
    arguments: tuple[tuple[Any, TensorType], ...]
    types: tuple[TensorType, ...] | None
    statements: tuple[Statement, ...]
    returned: tuple[Any, ...]


def parse(text: str, start: str, source: str) -> Any:
    """Parse a text as a `model`, `type` or `size` (`start`). Raises IRError with the name of the source.

    Returns a `Model`, a `TensorType` or a `Size`. Names in a model stay tokens of the text, with line and column.
    """
    import lark

    _check_depth(text, source)
    if len(text) > LONGEST_TEXT:
        raise IRError(f"the text has {len(text)} characters, more than {LONGEST_TEXT}", where=source)
    parser = _lark().parse_interactive(text, start)
    ended = read = None  # the token that ended the last reduction, and the one after it
    try:
        for token in parser.iter_parse():
            ended, read = read, token
        ended = read
        return parser.feed_eof(read)
    except FlashirError as error:
        place = Place(ended.line, ended.column) if ended is not None else Place(1, 1)
        raise IRError(error.problems, where=where_in(source, place), hint=error.hint) from None
    except lark.UnexpectedInput as error:
        raise _syntax_error(error, parser.accepts(), text, source) from None


def _syntax_error(error: Any, accepted: set[str], text: str, source: str) -> IRError:
    import lark

    if isinstance(error, lark.UnexpectedToken):
        if error.token.type == "$END":
            return IRError(f"the text ends too early; {_wanted(accepted)}", where=where_in(source, _end(text)))
        place = Place(error.line, error.column)
        return IRError(
            f"unexpected {str(error.token)!r}; {_wanted(accepted)}\n{_shown(text, place)}",
            where=where_in(source, place),
        )
    place = Place(error.line, error.column)
    return IRError(
        f"unexpected character {text[error.pos_in_stream]!r}\n{_shown(text, place)}",
        where=where_in(source, place),
    )


def _wanted(accepted: set[str]) -> str:
    names = {t.name: t.pattern.value for t in _lark().terminals if type(t.pattern).__name__ == "PatternStr"}
    plain = {
        "VALUE": "a value such as %x",
        "IDENTIFIER": "a name",
        "GLOBAL": "a name such as @model",
        "INT": "a number",
    }
    kinds = sorted({plain.get(name, repr(names.get(name, name.lower()))) for name in accepted - {"$END"}})
    return f"wanted {' or '.join(kinds) or 'the end of the text'}"


def _end(text: str) -> Place:
    lines = text.split("\n")
    return Place(len(lines), len(lines[-1]) + 1)


def _shown(text: str, place: Place) -> str:
    line = text.split("\n")[place.line - 1]
    start = max(0, place.column - 60)
    return f"    {line[start : start + 100]}\n    {' ' * (place.column - 1 - start)}^"


def where_in(source: str, place: Any) -> str:
    """`source:line:column`."""
    return f"{source}:{place}" if source else str(place)


def _check_depth(text: str, source: str) -> None:
    """Raise IRError for deep nesting, before it overflows the stack of the parser."""
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        token = bracket.group()
        depth += (token in "[({") - (token in "])}")
        if depth > DEEPEST:
            before = text[: bracket.start()]
            place = Place(before.count("\n") + 1, bracket.start() - before.rfind("\n"))
            raise IRError(f"brackets are nested deeper than {DEEPEST} levels", where=where_in(source, place))


@cache
def _lark() -> Any:
    """The parser of `grammar.lark`, which calls the method of `_Values` that has the name of a rule."""
    import lark

    grammar = (Path(__file__).parent / "grammar.lark").read_text()
    starts = ["model", "type", "size"]
    return lark.Lark(grammar, parser="lalr", transformer=_Values(), start=starts, maybe_placeholders=True)


class _Values:
    """Turns the items of each rule into plain values, bottom up."""

    def model(self, items: list[Any]) -> Model:
        name, *rest, returned = items
        types = next((item[1] for item in rest if isinstance(item, tuple) and item[0] == "types"), None)
        arguments = tuple(item[1:] for item in rest if isinstance(item, tuple) and item[0] == "argument")
        return Model(name, arguments, types, tuple(item for item in rest if isinstance(item, Statement)), returned)

    def argument(self, items: list[Any]) -> Any:
        return "argument", items[0], items[1]

    def statement(self, items: list[Any]) -> Statement:
        results, op, *rest = items
        kinds = {item[0]: item[1] for item in rest if item is not None and item[0] != "operand"}
        operands = tuple(item[1:] for item in rest if item is not None and item[0] == "operand")
        return Statement(results, op, operands, kinds.get("attributes", ()), kinds.get("region"), kinds.get("types"))

    def operand(self, items: list[Any]) -> Any:
        return "operand", items[0] and str(items[0]), items[1]

    def region(self, items: list[Any]) -> Any:
        arguments, *statements, yielded = items
        return "region", (arguments or (), tuple(statements), yielded)

    def values(self, items: list[Any]) -> Any:
        return tuple(items)

    def attributes(self, items: list[Any]) -> Any:
        return "attributes", tuple(item for item in items if item is not None)

    def attribute(self, items: list[Any]) -> Any:
        return items[0], _attr(items[1])

    def types(self, items: list[Any]) -> Any:
        return "types", tuple(items)

    def type(self, items: list[Any]) -> TensorType:
        name, *sizes = items
        return TensorType(DType.named(str(name)), tuple(_size(s) for s in sizes if s is not None))

    def listing(self, items: list[Any]) -> Any:
        return tuple(_attr(item) for item in items if item is not None)

    def number(self, items: list[Any]) -> float:
        return float(items[0])

    def string(self, items: list[Any]) -> Any:
        return _Text(parse_json(str(items[0]), "", IRError, str, problem=f"the string {items[0]} is malformed"))

    def whole(self, items: list[Any]) -> int:
        return int(items[0]) if len(items[0]) < 20 else _too_large(items[0])

    def negative(self, items: list[Any]) -> Any:
        return _size(items[0]) * -1

    def word(self, items: list[Any]) -> Any:
        return _Word(str(items[0]))

    def plus(self, items: list[Any]) -> Any:
        return _within(_size(items[0]) + _size(items[1]))

    def minus(self, items: list[Any]) -> Any:
        return _within(_size(items[0]) - _size(items[1]))

    def times(self, items: list[Any]) -> Any:
        return _within(_size(items[0]) * _size(items[1]))

    def ceildiv(self, items: list[Any]) -> Any:
        divisor = _size(items[1])
        if isinstance(divisor, Dim):
            raise IRError(f"ceildiv needs a known divisor, got {divisor}")
        return ceildiv(_size(items[0]), divisor)


@dataclass(frozen=True)
class _Word:
    name: str


@dataclass(frozen=True)
class _Text:
    content: str


def _too_large(text: str) -> int:
    raise IRError(f"the number {text[:20]}.. is too large")


def _within(size: Size) -> Size:
    """The size. Raises IRError if it is too large."""
    if isinstance(size, int) and abs(size) > LARGEST_COEFFICIENT:
        raise IRError(f"a size has too large a number in it, at most {LARGEST_COEFFICIENT} is possible")
    return size


def _size(item: Any) -> Size:
    if isinstance(item, _Word):
        return symbol(item.name)
    if isinstance(item, (int, Dim)) and not isinstance(item, bool):
        return item
    raise IRError(f"{item!r} is not a size")


def _attr(item: Any) -> Attr:
    """A parsed value as an attribute. Unlike strings, words are constants, dtypes or symbols."""
    if isinstance(item, _Word):
        constants: dict[str, Attr] = {"true": True, "false": False, "auto": AUTO, "none": None, "inf": float("inf")}
        if item.name in constants:
            return constants[item.name]
        return DType(item.name) if item.name in DTYPE_NAMES else symbol(item.name)
    if isinstance(item, _Text):
        return item.content
    attr: Attr = item
    return attr
