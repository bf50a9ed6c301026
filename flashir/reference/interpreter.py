"""Runs a graph by each op's `ref` rule, in float64: the oracle for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import InputError, ParameterError, SettingError
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.op import OPS
from flashir.ir.parameter_names import expand, full_name, parameters, round_symbol, with_scopes
from flashir.machine.memory import memory_at_hand, memory_for
from flashir.reference.arrays import as_array
from flashir.transforms import bind_sizes, specialise
from flashir.transforms.settle_choices import undecided

Oracle = npt.NDArray[Any]


@typed
def interpret(
    graph: Graph, params: Mapping[str, Any], *inputs: npt.ArrayLike, **named: npt.ArrayLike
) -> tuple[Oracle, ...]:
    """The outputs of a graph, every float in float64.

    Args:
        graph: a graph of any level, chunks chosen.
        params: arrays by full name, of numpy or of any library that `as_array` knows.
        inputs: one array for each input of the graph, in order, or by name.

    Raises:
        InputError: an input is missing, unknown, or of a type or shape that does not fit; an id is out of range; an op
            cannot do these sizes, or this machine has no memory for them.
        ParameterError: every parameter that is missing, misshapen or no array.
        SettingError: a chunk is still open.
    """
    by_name = dict(zip((value.name for value in graph.inputs), inputs), **named)
    if len(by_name) != len(inputs) + len(named) or set(by_name) != {value.name for value in graph.inputs}:
        wanted = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        got = ", ".join([*map(str, range(len(inputs))), *named])
        raise InputError(f"the model takes ({wanted}), got inputs ({got})")
    if names := undecided(graph):
        one = " and the ".join(names)
        raise SettingError(f"the {one} is part of the model, and still auto", hint=f"run choose-{names[0]}, or set it")
    arrays = [_oracle(by_name[value.name], value) for value in graph.inputs]
    bound = specialise(graph, bind_sizes(graph, [x.shape for x in arrays]))
    run = _Run(_arrays(graph, params))
    what, needed = _largest(bound)
    hint = "use a smaller batch or a shorter length"
    with memory_for(what, needed, InputError, hint=hint), np.errstate(all="ignore"):  # infinities are numbers
        return run.graph(with_scopes(bound), arrays, {})


def _largest(bound: Graph) -> tuple[str, int]:
    """The largest value of a graph without open sizes, for people, and its bytes."""
    values = [*bound.inputs, *(value for node in bound.walk() for value in node.outputs)]
    counted = ((value.type.count * value.type.dtype.reference_dtype.itemsize, value) for value in values)
    needed, value = max(counted, key=lambda each: each[0], default=(0, None))
    return f"the numbers of {value}: {value.type if value else ''} in float64", needed


def _oracle(given: npt.ArrayLike, value: Value) -> Oracle:
    try:
        array = as_array(given)
    except ValueError as error:
        raise InputError(f"{value.name} {error}") from None
    wanted = value.type.dtype.reference_dtype
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


class _Run:
    """One run: the parameters stay the same throughout; `held` counts the bytes of the values that are kept."""

    def __init__(self, params: Mapping[str, Oracle]) -> None:
        self.params = params
        self.held = 0
        self.memory = memory_at_hand()

    def graph(self, graph: Graph, inputs: Sequence[Oracle], rounds: Mapping[str, int]) -> tuple[Oracle, ...]:
        """Raises MemoryError where the values together are more than this machine holds."""
        values: dict[Value, Oracle] = dict(zip(graph.inputs, inputs, strict=True))
        before = self.held
        for node in graph.nodes:
            results = self.node(node, [None if v is None else values[v] for v in node.inputs], rounds)
            values.update(zip(node.outputs, results, strict=True))
            self.held += sum(result.nbytes for result in results if result.base is None)
            if self.held > self.memory:
                raise MemoryError
        self.held = before
        return tuple(values[value] for value in graph.outputs)

    def node(self, node: Node, operands: Sequence[Oracle | None], rounds: Mapping[str, int]) -> tuple[Oracle, ...]:
        record = OPS[node.op]
        extra: dict[str, Any] = {}
        if record.params is not None:
            extra["p"] = _Parameters(self.params, lambda local: expand(full_name(node, local), rounds))
        if node.region is not None:
            extra["body"] = self.body(node, rounds)
        result = record.ref(*operands, **node.attrs, **extra)
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
