"""Guards of a decoder: nodes that make a run fail on inputs which a runtime would accept, with a wrong result.

A runtime reads a negative id as a row from the end of a table, and broadcasts one row of ids over the states of three.
A guard is a lookup in a table of one element. The name of its node says what it wants; runtimes put it in the error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from flashir.ir import Graph, Value
from flashir_onnx.scope import MainScope


def guard_prefill(main: MainScope, graph: Graph) -> None:
    """`prefill(ids [b, t], lengths [b])`: a length for each row from 1 to t, no id below 0 in that length."""
    ids, lengths = graph.inputs[:2]
    rows, width = _axis(main, ids, 0), _axis(main, ids, 1)
    main.names[lengths] = counts = main.one("Reshape", main.names[lengths], rows, stem="as_many_rows_as_ids")
    wrong = main.one("Or", main.one("Less", counts, _number(main, 1)), main.one("Less", width, counts))
    _refuse(main, "lengths_are_1_to_the_width_of_ids", wrong, lengths)
    column = main.one("Unsqueeze", counts, main.constant(np.array([1])))
    own = main.one("Less", _counted(main, width), column)
    _refuse(main, "ids_are_0_or_more", main.one("And", own, _below(main, main.names[ids], 0)), ids)


def guard_step(main: MainScope, graph: Graph, limit: int | None) -> None:
    """`step(ids [b], position [b], *states)`: as many rows everywhere, no id below 0, no position beyond the limit."""
    ids, position, *states = graph.inputs
    rows = _common_rows(main, [ids, *states], "states_have_as_many_rows_as_ids")
    main.names[position] = at = main.one("Reshape", main.names[position], rows, stem="as_many_rows_as_ids")
    _refuse(main, "ids_are_0_or_more", _below(main, main.names[ids], 0), ids)
    _refuse(main, "positions_are_0_or_more", _below(main, at, 0), position)
    if limit is not None:
        _refuse(main, f"positions_are_below_{limit}", _beyond(main, at, limit), position)


def guard_extend(main: MainScope, graph: Graph, limit: int | None, least: int = 0) -> None:
    """`extend(ids [b, t], positions [b, t], *states)`: a token at least, as many rows everywhere, all in range.

    Padding is not checked: tokens whose positions do not count on from the first of their row.

    Args:
        main, graph: as for every guard.
        limit: the longest sequence; None for no limit.
        least: the lowest id, -1 for a host that gives it to rows that have ended.
    """
    ids, positions, *states = graph.inputs
    width = _axis(main, ids, 1)
    width = _refused(main, "tokens_are_1_or_more", _below(main, width, 1), width)
    rows = _common_rows(main, states or [ids], "states_have_as_many_rows_as_each_other")
    shape = main.one("Concat", rows, width, axis=0, stem="shape")
    for value in (ids, positions):
        main.names[value] = main.one("Reshape", main.names[value], shape, stem="as_many_rows_as_states")
    at = main.names[positions]
    first = main.one("Slice", at, *(main.constant(np.array([n])) for n in (0, 1, 1)))
    own = main.one("Equal", at, main.one("Add", first, _counted(main, width)), stem="own")
    own = main.one("And", own, main.one("Less", _number(main, -1), at))
    low = _below(main, main.names[ids], least)
    _refuse(main, f"ids_are_{least}_or_more", main.one("And", own, low), ids)
    _refuse(main, "first_positions_are_-1_or_more", _below(main, first, -1), positions)
    if limit is not None:
        _refuse(main, f"positions_are_below_{limit}", main.one("And", own, _beyond(main, at, limit)), positions)


def _common_rows(main: MainScope, values: Sequence[Value], name: str) -> str:
    """How many rows all values have, [1]. A node of this name fails where they differ."""
    first, *others = (_axis(main, value, 0) for value in values)
    if not others:
        return first
    rest = main.one("Concat", *others, axis=0)
    checked = _refused(main, name, main.one("Not", main.one("Equal", rest, first)), rest)
    return main.one("Slice", checked, *(main.constant(np.array([n])) for n in (0, 1)), stem="rows")


def _refuse(main: MainScope, name: str, wrong: str, value: Value) -> None:
    """Let the run fail in a node of this name where `wrong` is true; it has the shape of the value."""
    main.names[value] = _refused(main, name, wrong, main.names[value])


def _refused(main: MainScope, name: str, wrong: str, x: str) -> str:
    """x, for whose computation a node of this name fails where `wrong` is true."""
    index = main.one("Cast", wrong, to=TensorProto.INT64)
    zero = main.one("Gather", main.constant(np.array([0])), index, stem=name)
    return main.one("Add", x, zero)


def _axis(main: MainScope, value: Value, axis: int) -> str:
    """The size of an axis, [1]."""
    return main.one("Shape", main.names[value], start=axis, end=axis + 1, stem="rows" if axis == 0 else "width")


def _below(main: MainScope, x: str, least: int) -> str:
    return main.one("Less", x, _number(main, least))


def _beyond(main: MainScope, x: str, limit: int) -> str:
    return main.one("Less", _number(main, limit - 1), x)


def _counted(main: MainScope, width: str) -> str:
    """0 .. width - 1, for a vector of one number."""
    end = main.one("Squeeze", width)
    return main.one("Range", _number(main, 0), end, _number(main, 1))


def _number(main: MainScope, number: int) -> str:
    return main.constant(np.array(number, np.int64))
