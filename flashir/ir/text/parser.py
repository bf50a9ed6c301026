"""Text -> Graph: `grammar.py` parses the text, and a `Builder` takes each statement. Errors have line:column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flashir.arguments import typed
from flashir.errors import FlashirError, IRError
from flashir.ir.builder import Builder
from flashir.ir.graph import Attr, Graph, Value
from flashir.ir.op import opdef
from flashir.ir.parameter_names import check_names
from flashir.ir.text.former import FORMER
from flashir.ir.text.grammar import Model, Place, Statement, parse, where_in

_HAS_PLACE = re.compile(r"(.*:)?\d+:\d+(: .*)?\Z", re.DOTALL)


@typed
def loads(text: str, source: str = "") -> Graph:
    """Parse IR text.

    Args:
        text: IR text with one `model`.
        source: the name of the text in errors, such as a file.

    Raises:
        IRError: malformed, ill-typed, cyclic or too deeply nested text, or undefined values; with line:column.
    """
    return _graph(parse(text, "model", source), source)


def _graph(model: Model, source: str) -> Graph:
    builder = Builder(str(model.name)[1:])
    values: dict[str, Value] = {}
    for token, type_ in model.arguments:
        _declare(values, token, source)
        values[str(token)] = builder.input(str(token)[1:], type_)
    outputs = _build(builder, values, model.statements, model.returned, source)
    where = where_in(source, Place(model.name.line, model.name.column))
    if model.types is not None and model.types != tuple(v.type for v in outputs):
        got = ", ".join(str(v.type) for v in outputs)
        raise IRError(f"the model returns {got}, its head says {', '.join(map(str, model.types))}", where=where)
    try:
        graph = builder.finish(*outputs)
        check_names(graph, is_part=True)
    except IRError as error:
        raise IRError(error.problems, where=where, hint=error.hint) from None
    return graph


def _build(
    builder: Builder, values: dict[str, Value], statements: Sequence[Statement], returned: Sequence[Any], source: str
) -> tuple[Value, ...]:
    for statement in statements:
        place = where_in(source, Place(statement.op.line, statement.op.column))
        for position, token in enumerate(statement.results):
            _declare(values, token, source, statement.results[:position])
        try:
            outputs = _insert(builder, values, statement, statements, source)
        except FlashirError as error:
            if _HAS_PLACE.match(error.where):
                raise
            where = f"{place}: {error.where}" if error.where else place
            raise IRError(error.problems, where=where, hint=error.hint) from None
        values.update(zip((str(token) for token in statement.results), outputs, strict=True))
    return tuple(_lookup(values, token, statements, source) for token in returned)


def _insert(
    builder: Builder, values: dict[str, Value], statement: Statement, statements: Sequence[Statement], source: str
) -> tuple[Value, ...]:
    op = str(statement.op)
    former = FORMER.get(op)
    known = opdef(op).operands if former is None else former.operands
    inputs: list[Value | None] = []
    names = [name.rstrip("?*") for name in known]
    for name, token in statement.operands:
        value = _lookup(values, token, statements, source)
        if name is None:
            inputs.append(value)
        elif name not in names or names.index(name) < len(inputs):
            raise IRError(f"{op} has no operand named {name!r} here; it takes ({', '.join(known)})")
        else:
            inputs += [None] * (names.index(name) - len(inputs)) + [value]
    attrs = _attrs(statement)
    region = None
    if statement.region is not None:
        region = _region(builder, op, inputs, attrs, statement, source)
    stems = [str(token)[1:] for token in statement.results]
    if former is not None:
        op, inputs, attrs = former.now(builder, dict(zip(names, inputs)), attrs)
    outputs = builder.insert(op, inputs, attrs, region, names=stems)
    if statement.types is not None and statement.types != tuple(v.type for v in outputs):
        got = ", ".join(str(v.type) for v in outputs)
        raise IRError(f"the result is {got}, the text says {', '.join(map(str, statement.types))}")
    return outputs


def _attrs(statement: Statement) -> dict[str, Attr]:
    attrs: dict[str, Attr] = {}
    for token, value in statement.attrs:
        if str(token) in attrs:
            raise IRError(f"the attribute {str(token)!r} is given twice")
        attrs[str(token)] = value
    return attrs


def _region(
    builder: Builder, op: str, inputs: list[Value | None], attrs: dict[str, Attr], statement: Statement, source: str
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


def _declare(values: dict[str, Value], token: Any, source: str, siblings: Sequence[Any] = ()) -> None:
    if str(token) in values or token in siblings:
        raise IRError(f"{token} is defined twice", where=where_in(source, Place(token.line, token.column)))


def _lookup(values: dict[str, Value], token: Any, statements: Sequence[Statement], source: str) -> Value:
    if str(token) in values:
        return values[str(token)]
    where = where_in(source, Place(token.line, token.column))
    later = {str(result): s for s in statements for result in s.results}
    if str(token) not in later:
        raise IRError(f"{token} is not defined here", where=where, hint="regions see only their own arguments")
    raise IRError(_order_problem(str(token), later), where=where)


def _order_problem(name: str, later: dict[str, Statement]) -> str:
    """Why a value is used before its definition: a cycle, or the wrong order."""
    import networkx as nx

    uses = nx.DiGraph((str(token), result) for result, s in later.items() for _, token in s.operands)
    try:
        cycle = nx.find_cycle(uses, name)
    except nx.NetworkXNoCycle:
        return f"{name} is used before it is defined; move its definition up"
    return f"values depend on themselves: {' -> '.join([edge[0] for edge in cycle] + [cycle[-1][1]])}"
