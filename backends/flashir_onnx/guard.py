"""Guards of a decoder: nodes that make a run fail on inputs which a runtime would accept, with a wrong result.

A runtime reads a negative id as a row from the end of a table, and broadcasts one row of ids over the states of three.
A guard is a lookup in a table of one element. The name of its node says what it wants; runtimes put it in the error.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from flashir.ir import Graph, Value
from flashir_onnx.scope import MainScope


def guard_prefill(main: MainScope, graph: Graph) -> None:
    """`prefill(ids [b, t], lengths [b])`: a length for each row from 1 to t, no id below 0 in that length."""
    ids, lengths = graph.inputs[:2]
    rows = main.one("Shape", main.names[ids], start=0, end=1, stem="rows")
    width = main.one("Shape", main.names[ids], start=1, end=2, stem="width")
    main.names[lengths] = counts = main.one("Reshape", main.names[lengths], rows, stem="as_many_rows_as_ids")
    wrong = main.one("Or", main.one("Less", counts, _number(main, 1)), main.one("Less", width, counts))
    _refuse(main, "lengths_are_1_to_the_width_of_ids", wrong, lengths)
    column = main.one("Unsqueeze", counts, main.constant(np.array([1])))
    own = main.one("Less", _counted(main, width), column)
    _refuse(main, "ids_are_0_or_more", main.one("And", own, _negative(main, main.names[ids])), ids)


def guard_step(main: MainScope, graph: Graph) -> None:
    """`step(ids [b], position [b], ..)`: a position for each id, no id below 0."""
    ids, position = graph.inputs[:2]
    rows = main.one("Shape", main.names[ids], start=0, end=1, stem="rows")
    main.names[position] = main.one("Reshape", main.names[position], rows, stem="as_many_rows_as_ids")
    _refuse(main, "ids_are_0_or_more", _negative(main, main.names[ids]), ids)


def guard_extend(main: MainScope, graph: Graph, limit: int | None, least: int = 0) -> None:
    """`extend(ids [b, t], positions [b, t], *states)`: as many rows everywhere, no id too low, none beyond the limit.

    Padding is not checked: tokens whose positions do not count on from the first of their row.

    Args:
        main, graph: as for every guard.
        limit: the longest sequence; None for no limit.
        least: the lowest id, -1 for a host that gives it to rows that have ended.
    """
    ids, positions, *states = graph.inputs
    width = main.one("Shape", main.names[ids], start=1, end=2, stem="width")
    for state in states[:1]:
        rows = main.one("Shape", main.names[state], start=0, end=1, stem="rows")
        shape = main.one("Concat", rows, width, axis=0, stem="shape")
        for value in (ids, positions):
            main.names[value] = main.one("Reshape", main.names[value], shape, stem="as_many_rows_as_states")
    at = main.names[positions]
    first = main.one("Slice", at, *(main.constant(np.array([n])) for n in (0, 1, 1)))
    own = main.one("Equal", at, main.one("Add", first, _counted(main, width)), stem="own")
    own = main.one("And", own, main.one("Less", _number(main, -1), at))
    low = main.one("Less", main.names[ids], _number(main, least))
    _refuse(main, f"ids_are_{least}_or_more", main.one("And", own, low), ids)
    if limit is not None:
        beyond = main.one("Less", _number(main, limit - 1), at)
        _refuse(main, f"positions_are_below_{limit}", main.one("And", own, beyond), positions)


def _refuse(main: MainScope, name: str, wrong: str, value: Value) -> None:
    """Let the run fail in a node of this name where `wrong` is true; it has the shape of the value."""
    index = main.one("Cast", wrong, to=TensorProto.INT64)
    zero = main.one("Gather", main.constant(np.array([0])), index, stem=name)
    main.names[value] = main.one("Add", main.names[value], zero)


def _negative(main: MainScope, x: str) -> str:
    return main.one("Less", x, _number(main, 0))


def _counted(main: MainScope, width: str) -> str:
    """0 .. width - 1, for a vector of one number."""
    end = main.one("Squeeze", width)
    return main.one("Range", _number(main, 0), end, _number(main, 1))


def _number(main: MainScope, number: int) -> str:
    return main.constant(np.array(number, np.int64))
