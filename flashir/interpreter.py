"""Runs a graph by each op's `ref` rule, in float64: the oracle for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.arrays import as_array
from flashir.errors import InputError, ParameterError, SettingError
from flashir.ir.dims import Dim, Symbol, evaluate, symbols
from flashir.ir.graph import AUTO, Graph, Node, Value
from flashir.ir.naming import expand, full_name, parameters, round_symbol, with_scopes
from flashir.ops.opdef import OPS
from flashir.ops.shape import bind_attrs

Oracle = npt.NDArray[Any]


@typed
def interpret(
    graph: Graph, params: Mapping[str, Any], *inputs: npt.ArrayLike, **named: npt.ArrayLike
) -> tuple[Oracle, ...]:
    """The outputs of a graph, every float in float64.

    Args:
        graph: a graph of any storey, chunks chosen.
        params: arrays by full name, of numpy or of any library that `as_array` knows.
        inputs: one array for each input of the graph, in order, or by name.

    Raises:
        InputError: an input is missing, unknown, or of a type or shape that does not fit; an id is out of range.
        ParameterError: every parameter that is missing, misshapen or no array.
        SettingError: a chunk is still open.
    """
    by_name = dict(zip((value.name for value in graph.inputs), inputs), **named)
    if len(by_name) != len(inputs) + len(named) or set(by_name) != {value.name for value in graph.inputs}:
        wanted = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        got = ", ".join([*map(str, range(len(inputs))), *named])
        raise InputError(f"the model takes ({wanted}), got inputs ({got})")
    if any(node.attrs.get("chunk") is AUTO for node in graph.walk()):
        raise SettingError("the chunk is part of the model, and still auto", mend="run choose-chunk, or set it")
    arrays = [_oracle(by_name[value.name], value) for value in graph.inputs]
    sizes = bind_sizes(graph, [x.shape for x in arrays])
    params = _arrays(graph, params)
    with np.errstate(all="ignore"):  # infinities are numbers, as on every target
        return _Run(params, sizes).graph(with_scopes(graph), arrays, {})


def _oracle(given: npt.ArrayLike, value: Value) -> Oracle:
    try:
        array = as_array(given)
    except ValueError as error:
        raise InputError(f"{value.name} {error}") from None
    wanted = value.type.dtype.oracle
    if array.size and not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(f"{value.name} must be {value.type}, got {array.dtype}")
    return array.astype(wanted)


def _arrays(graph: Graph, params: Mapping[str, Any]) -> dict[str, Oracle]:
    """The parameters of the graph as arrays. Raises ParameterError."""
    if not isinstance(params, Mapping):
        raise ParameterError(f"must be arrays by name, got a {type(params).__name__}", where="parameters")
    arrays, problems = {}, []
    for name, spec in parameters(graph).items():
        if name not in params:
            problems.append(f"the parameter {name} {spec.shape} is missing")
            continue
        try:
            arrays[name] = as_array(params[name])
        except ValueError as error:
            problems.append(f"the parameter {name} {error}")
            continue
        if arrays[name].shape != spec.shape:
            problems.append(f"the parameter {name} must have shape {spec.shape}, got {arrays[name].shape}")
    if problems:
        raise ParameterError(problems)
    return arrays


def bind_sizes(graph: Graph, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The symbols of a graph's inputs, from the shapes given. Raises InputError where they do not fit."""
    sizes: dict[str, int] = {}
    problems = []
    for value, shape in zip(graph.inputs, shapes, strict=True):
        if len(shape) != value.type.rank:
            problems.append(f"{value.name} must have {value.type.rank} axes, as {value.type}, got shape {shape}")
            continue
        for axis, (wanted, got) in enumerate(zip(value.type.shape, shape, strict=True)):
            name = _symbol_name(wanted)
            expected = wanted if name is None else sizes.setdefault(name, got)
            if not isinstance(expected, Dim) and expected != got:
                problems.append(f"axis {axis} of {value.name} ({value.type}) must be {expected}, got {got}")
    for value, shape in () if problems else zip(graph.inputs, shapes, strict=True):
        for axis, (wanted, got) in enumerate(zip(value.type.shape, shape, strict=True)):
            unknown = symbols(wanted) - set(sizes)
            if unknown:
                problems.append(f"axis {axis} of {value.name} is {wanted}: no input has an axis {min(unknown)}")
            elif evaluate(wanted, sizes) != got:
                problems.append(
                    f"axis {axis} of {value.name} ({value.type}) must be {evaluate(wanted, sizes)}, got {got}"
                )
    if problems:
        raise InputError(problems)
    return sizes


def _symbol_name(size: int | Dim) -> str | None:
    match size:
        case Dim(terms=(((Symbol(name=name),), 1),)):
            return name
    return None


class _Run:
    """One run: the parameters and the sizes that stay the same throughout."""

    def __init__(self, params: Mapping[str, Oracle], sizes: dict[str, int]) -> None:
        self.params = params
        self.sizes = sizes

    def graph(self, graph: Graph, inputs: Sequence[Oracle], rounds: Mapping[str, int]) -> tuple[Oracle, ...]:
        values: dict[Value, Oracle] = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            results = self.node(node, [None if v is None else values[v] for v in node.inputs], rounds)
            values.update(zip(node.outputs, results, strict=True))
        return tuple(values[value] for value in graph.outputs)

    def node(self, node: Node, operands: Sequence[Oracle | None], rounds: Mapping[str, int]) -> tuple[Oracle, ...]:
        record = OPS[node.op]
        extra: dict[str, Any] = {}
        if record.params is not None:
            extra["p"] = _Parameters(self.params, lambda local: expand(full_name(node, local), rounds))
        if node.region is not None:
            extra["body"] = self.body(node, rounds)
        result = record.ref(*operands, **bind_attrs(dict(node.attrs), self.sizes), **extra)
        return result if isinstance(result, tuple) else (result,)

    def body(self, node: Node, rounds: Mapping[str, int]) -> Callable[..., tuple[Oracle, ...]]:
        region = node.region
        assert region is not None

        def run(*arguments: Oracle, index: int) -> tuple[Oracle, ...]:
            counted = {**rounds, round_symbol(len(rounds)): index} if node.op == "repeat" else rounds
            return self.graph(region, arguments, counted)

        return run


class _Parameters(dict[str, Oracle]):
    """A block's own parameters by local name, made float64 when asked for, so that one layer at a time is wide."""

    def __init__(self, params: Mapping[str, Oracle], name: Callable[[str], str]) -> None:
        super().__init__()
        self.params, self.name = params, name

    def __missing__(self, local: str) -> Oracle:
        self[local] = np.asarray(self.params[self.name(local)], np.float64)
        return self[local]
