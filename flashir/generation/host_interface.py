"""hosted: the graphs of a decoder with the interface for a host, one token of each row at a time."""

from __future__ import annotations

from dataclasses import replace

from flashir.backends.decoding import Decoding
from flashir.ir import Builder, Graph, Value


def hosted(graphs: Decoding) -> Decoding:
    """The graphs of a decoder without the token axis where it has size 1:

    logits, *states = prefill(ids, lengths)         # ids [b, t] padded on the right -> logits [b, v]
    logits, *states = step(ids, *states)            # ids [b], the next token of each row -> logits [b, v]
    """
    return replace(graphs, prefill=_prefill(graphs.prefill), step=_step(graphs.step))


def _prefill(graph: Graph) -> Graph:
    """`prefill(ids, lengths) -> logits [b, 1, v], ..` -> the same with logits [b, v]."""
    b = Builder(graph.name)
    return _flat(b, graph, {value: b.input(value.name, value.type) for value in graph.inputs})


def _step(graph: Graph) -> Graph:
    """`step(ids [b, 1], *states)` -> `step(ids [b], *states)`, with logits [b, v]."""
    ids, *states = graph.inputs
    batch, _ = ids.type.shape
    b = Builder(graph.name)
    column = b.reshape(b.input(ids.name, ids.type.with_shape((batch,))), shape=(batch, 1))
    return _flat(b, graph, {ids: column} | {value: b.input(value.name, value.type) for value in states})


def _flat(b: Builder, graph: Graph, values: dict[Value, Value]) -> Graph:
    """The graph on other inputs, with logits without their token axis."""
    b.inline(graph.nodes, values)
    logits, *states = (values[value] for value in graph.outputs)
    batch, _, vocab = logits.type.shape
    return b.finish(b.reshape(logits, shape=(batch, vocab)), *states)
