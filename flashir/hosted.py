"""hosted: the graphs of a decoder as a host runs them, one token of each row at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flashir.decode import Decoding
from flashir.ir import Builder, Graph, Value
from flashir.ir.dims import Dim, Size, substitute


def hosted(graphs: Decoding) -> Decoding:
    """The same without the axis of tokens, where it is one token:

    logits, *states = prefill(ids, lengths)         # ids [b, t] padded on the right -> logits [b, v]
    logits, *states = step(ids, *states)            # ids [b], the next token of each row -> logits [b, v]
    """
    return replace(graphs, prefill=_prefill(graphs.prefill), step=_step(graphs.step))


def _prefill(graph: Graph) -> Graph:
    """`prefill(ids, lengths)` -> logits [b, 1, v], ..` -> the same with logits [b, v]"""
    b = Builder(graph.name)
    return _flat(b, graph, {value: b.input(value.name, value.type) for value in graph.inputs}, {})


def _step(graph: Graph) -> Graph:
    """`step(ids [b, t], *states)` -> `step(ids [b], *states)`, whose logits are [b, v]"""
    ids, *states = graph.inputs
    batch, length = ids.type.shape
    b = Builder(graph.name)
    column = b.reshape(b.input(ids.name, ids.type.with_shape((batch,))), shape=(batch, 1))
    given = {ids: column} | {value: b.input(value.name, value.type) for value in states}
    return _flat(b, graph, given, {str(length): 1})


def _flat(b: Builder, graph: Graph, values: dict[Value, Value], sizes: dict[str, Size]) -> Graph:
    """The graph built anew on other inputs, with other sizes, and logits without their axis of one token."""

    def sized(attr: Any) -> Any:
        if isinstance(attr, tuple):
            return tuple(map(sized, attr))
        return substitute(attr, sizes) if isinstance(attr, Dim) else attr

    for node in graph.nodes:
        operands = [None if value is None else values[value] for value in node.inputs]
        attrs = {name: sized(attr) for name, attr in node.attrs.items()}
        values |= zip(node.outputs, b.insert(node.op, operands, attrs, node.region), strict=True)
    logits, *states = (values[value] for value in graph.outputs)
    batch, _, vocab = logits.type.shape
    return b.finish(b.reshape(logits, shape=(batch, vocab)), *states)
