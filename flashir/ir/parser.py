"""Text -> Graph. Errors carry line:column and what would have been accepted there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flashir.errors import FlashirError, IRError
from flashir.ir.builder import Builder
from flashir.ir.dims import Dim, Size, ceildiv, symbol
from flashir.ir.graph import AUTO, Attr, Graph, Value
from flashir.ir.types import DTYPE_NAMES, DType, TensorType
from flashir.ops.opdef import opdef

DEEPEST = 64
LONGEST = 64 * 2**20
_HAS_PLACE = re.compile(r"(.*:)?\d+:\d+(: .*)?\Z", re.DOTALL)
_BRACKETS = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|[\[({]|[\])}]')


def loads(text: str, source: str = "") -> Graph:
    """The graph that the text describes.

    Args:
        text: IR text with one `model`.
        source: its name in errors, such as a file.

    Raises:
        IRError: malformed, cyclic, dangling, nested too deeply or ill-typed text, with line:column.
    """
    return _model(_parse(text, "model", source), source)


def parse_type(text: str) -> TensorType:
    """A type such as `f32[B, T, 768]`. Raises IRError."""
    result: TensorType = _parse(text, "type", "")
    return result


@cache
def parse_size(text: str) -> Size:
    """A size such as `4*i + 2`. Raises IRError."""
    return _size(_parse(text, "size", ""))


@dataclass(frozen=True)
class _Place:
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True)
class _Statement:
    results: tuple[Any, ...]
    op: Any
    operands: tuple[tuple[str | None, Any], ...]
    attrs: tuple[tuple[Any, Attr], ...]
    region: tuple[tuple[Any, ...], tuple[_Statement, ...], tuple[Any, ...]] | None
    types: tuple[TensorType, ...] | None


def _parse(text: str, start: str, source: str) -> Any:
    import lark

    if len(text) > LONGEST:
        raise IRError(f"the text has {len(text)} characters, more than {LONGEST}", where=source)
    _check_depth(text, source)
    parser = _lark().parse_interactive(text, start)
    ended = read = None  # the token that ended what was last put together, and the one after it
    try:
        for token in parser.iter_parse():
            ended, read = read, token
        ended = read
        return parser.feed_eof(read)
    except FlashirError as error:
        place = _Place(ended.line, ended.column) if ended is not None else _Place(1, 1)
        raise IRError(error.problems, where=_where(source, place), mend=error.mend) from None
    except lark.UnexpectedInput as error:
        raise _syntax_error(error, parser.accepts(), text, source) from None


def _syntax_error(error: Any, accepted: set[str], text: str, source: str) -> IRError:
    import lark

    if isinstance(error, lark.UnexpectedToken):
        if error.token.type == "$END":
            return IRError(f"the text ends too early; {_wanted(accepted)}", where=_where(source, _end(text)))
        place = _Place(error.line, error.column)
        return IRError(
            f"unexpected {str(error.token)!r}; {_wanted(accepted)}\n{_shown(text, place)}", where=_where(source, place)
        )
    place = _Place(error.line, error.column)
    return IRError(
        f"unexpected character {text[error.pos_in_stream]!r}\n{_shown(text, place)}", where=_where(source, place)
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


def _end(text: str) -> _Place:
    lines = text.split("\n")
    return _Place(len(lines), len(lines[-1]) + 1)


def _shown(text: str, place: _Place) -> str:
    line = text.split("\n")[place.line - 1]
    start = max(0, place.column - 60)
    return f"    {line[start : start + 100]}\n    {' ' * (place.column - 1 - start)}^"


def _where(source: str, place: Any) -> str:
    return f"{source}:{place}" if source else str(place)


def _check_depth(text: str, source: str) -> None:
    """Before the parser, whose stack is not the place to find out."""
    depth = 0
    for found in _BRACKETS.finditer(text):
        token = found.group()
        depth += (token in "[({") - (token in "])}")
        if depth > DEEPEST:
            before = text[: found.start()]
            place = _Place(before.count("\n") + 1, found.start() - before.rfind("\n"))
            raise IRError(f"brackets are nested deeper than {DEEPEST} levels", where=_where(source, place))


@cache
def _lark() -> Any:
    import lark

    class Tree(lark.Transformer):  # type: ignore[type-arg]
        """Tokens and rules -> plain values, from the leaves up."""

        def model(self, items: list[Any]) -> Any:
            name, *rest = items
            *rest, returned = rest
            arguments = [item for item in rest if isinstance(item, tuple) and item and item[0] == "argument"]
            statements = [item for item in rest if isinstance(item, _Statement)]
            types = next((item[1] for item in rest if isinstance(item, tuple) and item and item[0] == "types"), None)
            return name, arguments, types, statements, returned

        def argument(self, items: list[Any]) -> Any:
            return "argument", items[0], items[1]

        def statement(self, items: list[Any]) -> _Statement:
            results, op, *rest = items
            kinds = {item[0]: item[1] for item in rest if item is not None and item[0] != "operand"}
            operands = tuple(item[1:] for item in rest if item is not None and item[0] == "operand")
            return _Statement(
                results, op, operands, kinds.get("attributes", ()), kinds.get("region"), kinds.get("types")
            )

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
            try:
                return _Text(json.loads(str(items[0])))
            except json.JSONDecodeError as error:
                raise IRError(f"the string {items[0]} is malformed: {error.msg}") from None

        def whole(self, items: list[Any]) -> int:
            return int(items[0]) if len(items[0]) < 20 else _too_large(items[0])

        def negative(self, items: list[Any]) -> Any:
            return _size(items[0]) * -1

        def word(self, items: list[Any]) -> Any:
            return _Word(str(items[0]))

        def plus(self, items: list[Any]) -> Any:
            return _size(items[0]) + _size(items[1])

        def minus(self, items: list[Any]) -> Any:
            return _size(items[0]) - _size(items[1])

        def times(self, items: list[Any]) -> Any:
            return _size(items[0]) * _size(items[1])

        def ceildiv(self, items: list[Any]) -> Any:
            divisor = _size(items[1])
            if isinstance(divisor, Dim):
                raise IRError(f"ceildiv needs a known divisor, got {divisor}")
            return ceildiv(_size(items[0]), divisor)

    grammar = (Path(__file__).parent / "grammar.lark").read_text()
    return lark.Lark(
        grammar, parser="lalr", transformer=Tree(), start=["model", "type", "size"], maybe_placeholders=True
    )


@dataclass(frozen=True)
class _Word:
    name: str


@dataclass(frozen=True)
class _Text:
    content: str


def _too_large(text: str) -> int:
    raise IRError(f"the number {text[:20]}.. is too large")


def _size(item: Any) -> Size:
    if isinstance(item, _Word):
        return symbol(item.name)
    if isinstance(item, (int, Dim)) and not isinstance(item, bool):
        return item
    raise IRError(f"{item!r} is no size")


def _attr(item: Any) -> Attr:
    """A parsed value as an attribute: words are constants, types or symbols, unlike strings."""
    if isinstance(item, _Word):
        words: dict[str, Attr] = {"true": True, "false": False, "auto": AUTO, "none": None, "inf": float("inf")}
        if item.name in words:
            return words[item.name]
        return DType(item.name) if item.name in DTYPE_NAMES else symbol(item.name)
    if isinstance(item, _Text):
        return item.content
    attr: Attr = item
    return attr


def _model(parsed: Any, source: str) -> Graph:
    name, arguments, types, statements, returned = parsed
    builder = Builder(str(name)[1:])
    values: dict[str, Value] = {}
    for _, token, type_ in arguments:
        _declare(values, token, source)
        values[str(token)] = builder.input(str(token)[1:], type_)
    outputs = _build(builder, values, statements, returned, source)
    if types is not None and types != tuple(v.type for v in outputs):
        got = ", ".join(str(v.type) for v in outputs)
        place = _Place(name.line, name.column)
        head = ", ".join(map(str, types))
        raise IRError(f"the model returns {got}, its head says {head}", where=_where(source, place))
    return builder.finish(*outputs)


def _build(
    builder: Builder, values: dict[str, Value], statements: Sequence[_Statement], returned: Sequence[Any], source: str
) -> tuple[Value, ...]:
    for statement in statements:
        place = _where(source, _Place(statement.op.line, statement.op.column))
        for position, token in enumerate(statement.results):
            _declare(values, token, source, statement.results[:position])
        try:
            made = _insert(builder, values, statement, statements, source)
        except FlashirError as error:
            if _HAS_PLACE.match(error.where):
                raise
            where = f"{place}: {error.where}" if error.where else place
            raise IRError(error.problems, where=where, mend=error.mend) from None
        values.update(zip((str(token) for token in statement.results), made, strict=True))
    return tuple(_lookup(values, token, statements, source) for token in returned)


def _insert(
    builder: Builder, values: dict[str, Value], statement: _Statement, statements: Sequence[_Statement], source: str
) -> tuple[Value, ...]:
    record = opdef(str(statement.op))
    inputs: list[Value | None] = []
    names = [name.rstrip("?*") for name in record.operands]
    for name, token in statement.operands:
        value = _lookup(values, token, statements, source)
        if name is None:
            inputs.append(value)
        elif name not in names or names.index(name) < len(inputs):
            raise IRError(f"{record.name} takes no further operand {name!r}; it takes ({', '.join(record.operands)})")
        else:
            inputs += [None] * (names.index(name) - len(inputs)) + [value]
    attrs = _attrs(statement)
    region = None
    if statement.region is not None:
        region = _region(builder, record.name, inputs, attrs, statement, source)
    stems = [str(token)[1:] for token in statement.results]
    made = builder.insert(record.name, inputs, attrs, region, names=stems)
    if statement.types is not None and statement.types != tuple(v.type for v in made):
        got = ", ".join(str(v.type) for v in made)
        raise IRError(f"the result is {got}, the text says {', '.join(map(str, statement.types))}")
    return made


def _attrs(statement: _Statement) -> dict[str, Attr]:
    attrs: dict[str, Attr] = {}
    for token, value in statement.attrs:
        if str(token) in attrs:
            raise IRError(f"the attribute {str(token)!r} is given twice")
        attrs[str(token)] = value
    return attrs


def _region(
    builder: Builder, op: str, inputs: list[Value | None], attrs: dict[str, Attr], statement: _Statement, source: str
) -> Graph:
    assert statement.region is not None
    arguments, statements, yielded = statement.region
    if len(arguments) != len(inputs):
        raise IRError(f"the body of {op} must name {len(inputs)} arguments, one for each operand, got {len(arguments)}")
    record = opdef(op)
    if record.region is None:
        raise IRError(f"{op} takes no body")
    inner = builder.subgraph()
    types = record.region([value.type for value in inputs if value is not None], record.complete(attrs))
    values: dict[str, Value] = {}
    for token, type_ in zip(arguments, types, strict=True):
        _declare(values, token, source)
        values[str(token)] = inner.input(str(token)[1:], type_)
    return inner.finish(*_build(inner, values, statements, yielded, source))


def _declare(values: dict[str, Value], token: Any, source: str, beside: Sequence[Any] = ()) -> None:
    if str(token) in values or token in beside:
        raise IRError(f"{token} is defined twice", where=_where(source, _Place(token.line, token.column)))


def _lookup(values: dict[str, Value], token: Any, statements: Sequence[_Statement], source: str) -> Value:
    if str(token) in values:
        return values[str(token)]
    where = _where(source, _Place(token.line, token.column))
    later = {str(result): s for s in statements for result in s.results}
    if str(token) not in later:
        raise IRError(f"{token} is not defined here", where=where, mend="regions see only their own arguments")
    raise IRError(_order_problem(str(token), later), where=where)


def _order_problem(name: str, later: dict[str, _Statement]) -> str:
    """Why a value is used before its definition: a cycle, or only the order."""
    import networkx as nx

    uses = nx.DiGraph((str(token), result) for result, s in later.items() for _, token in s.operands)
    try:
        cycle = nx.find_cycle(uses, name)
    except nx.NetworkXNoCycle:
        return f"{name} is used before it is defined; move its definition up"
    return f"values depend on themselves: {' -> '.join([edge[0] for edge in cycle] + [cycle[-1][1]])}"
