"""The interpreter: runs a graph with the `ref` rule of each op, in float64. It is the reference for everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import InputError, ParameterError, SettingError
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.op import OPS
from flashir.ir.parameter_names import expand, full_name, parameters, round_symbol, with_scopes
from flashir.machine.memory import memory_for, total_memory
from flashir.reference.arrays import as_array, rounded
from flashir.transforms import bind_sizes, specialise
from flashir.transforms.settle_choices import undecided

Reference = npt.NDArray[Any]


@typed
def interpret(
    graph: Graph, params: Mapping[str, Any], *inputs: npt.ArrayLike, **named: npt.ArrayLike
) -> tuple[Reference, ...]:
    """The outputs of a graph, every float in float64.

    Args:
        graph: a graph at any level of lowering, with its chunks settled.
        params: arrays by full name, of NumPy or another library that `as_array` supports.
        inputs: one array per input of the graph, in order or by name.

    Raises:
        InputError: an input is missing, unknown, or of a wrong dtype or shape; an id is out of range; an op does not
            support these sizes; or the values do not fit in memory.
        ParameterError: lists every parameter that is missing, misshapen or not an array.
        SettingError: a chunk is still open.
    """
    return _run(_Run, graph, params, inputs, named)[0]


def largest(graph: Graph, params: Mapping[str, Any], *inputs: npt.ArrayLike) -> float:
    """The largest finite magnitude among all floats that a graph computes, also within layers and loops.

    Beyond the largest number of a dtype, that dtype gives infinities where float64 does not. Takes the arguments of
    `interpret`, and raises its errors.
    """
    return _run(_Watching, graph, params, inputs, {})[1].largest


def interpret_rounded(graph: Graph, params: Mapping[str, Any], *inputs: npt.ArrayLike) -> tuple[Reference, ...]:
    """The outputs of a graph, every float rounded to the type that its value has.

    A backend rounds less often, because it keeps what one kernel computes. Takes the arguments of `interpret`, and
    raises its errors.
    """
    return _run(_Rounding, graph, params, inputs, {})[0]


def _run(
    kind: type[Running],
    graph: Graph,
    params: Mapping[str, Any],
    inputs: Sequence[npt.ArrayLike],
    named: Mapping[str, npt.ArrayLike],
) -> tuple[tuple[Reference, ...], Running]:
    """The outputs of a graph, and the run that computed them. Raises the errors of `interpret`."""
    by_name = dict(zip((value.name for value in graph.inputs), inputs), **named)
    if len(by_name) != len(inputs) + len(named) or set(by_name) != {value.name for value in graph.inputs}:
        signature = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        got = ", ".join([*map(str, range(len(inputs))), *named])
        raise InputError(f"the model takes ({signature}), got inputs ({got})")
    if names := undecided(graph):
        open_names = " and the ".join(names)
        raise SettingError(
            f"the {open_names} is part of the model, and still auto", hint=f"run choose-{names[0]}, or set it"
        )
    arrays = [_reference(by_name[value.name], value) for value in graph.inputs]
    bound = specialise(graph, bind_sizes(graph, [x.shape for x in arrays]))
    run = kind(_arrays(graph, params))
    what, needed = _largest(bound)
    hint = "use a smaller batch or a shorter length"
    with memory_for(what, needed, InputError, hint=hint), np.errstate(all="ignore"):  # infinities are valid results
        return run.graph(with_scopes(bound), arrays, {}), run


def _largest(bound: Graph) -> tuple[str, int]:
    """A description of the largest value of a graph with known sizes, and its bytes."""
    values = [*bound.inputs, *(value for node in bound.walk() for value in node.outputs)]
    counted = ((value.type.count * value.type.dtype.reference_dtype.itemsize, value) for value in values)
    needed, value = max(counted, key=lambda pair: pair[0], default=(0, None))
    return f"the numbers of {value}: {value.type if value else ''} in float64", needed


def _reference(argument: npt.ArrayLike, value: Value) -> Reference:
    try:
        array = as_array(argument)
    except ValueError as error:
        raise InputError(f"{value.name} {error}") from None
    dtype = value.type.dtype.reference_dtype
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"{value.name} must be {value.type}, got {array.dtype}")
    return array.astype(dtype)


def _arrays(graph: Graph, params: Mapping[str, Any]) -> dict[str, Reference]:
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
    """One run of a graph. `held` counts the bytes of the values alive."""

    def __init__(self, params: Mapping[str, Reference]) -> None:
        self.params = params
        self.held = 0
        self.memory = total_memory()

    def graph(self, graph: Graph, inputs: Sequence[Reference], rounds: Mapping[str, int]) -> tuple[Reference, ...]:
        """Run a graph. Raises MemoryError if the values do not fit in the memory of this machine."""
        values: dict[Value, Reference] = dict(zip(graph.inputs, inputs, strict=True))
        before = self.held
        for node in graph.nodes:
            results = self.node(node, [None if v is None else values[v] for v in node.inputs], rounds)
            values.update(zip(node.outputs, results, strict=True))
            self.held += sum(result.nbytes for result in results if result.base is None)
            if self.held > self.memory:
                raise MemoryError
        self.held = before
        return tuple(values[value] for value in graph.outputs)

    def node(
        self, node: Node, operands: Sequence[Reference | None], rounds: Mapping[str, int]
    ) -> tuple[Reference, ...]:
        record = OPS[node.op]
        extra: dict[str, Any] = {}
        if record.params is not None:
            extra["p"] = _Parameters(self.params, lambda local: expand(full_name(node, local), rounds))
        if node.region is not None:
            extra["body"] = self.body(node, rounds)
        result = record.ref(*operands, **node.attrs, **extra)
        return result if isinstance(result, tuple) else (result,)

    def body(self, node: Node, rounds: Mapping[str, int]) -> Callable[..., tuple[Reference, ...]]:
        region = node.region
        assert region is not None

        def run(*arguments: Reference, index: int) -> tuple[Reference, ...]:
            counted = {**rounds, round_symbol(len(rounds)): index} if node.op == "repeat" else rounds
            return self.graph(region, arguments, counted)

        return run


class _Watching(_Run):
    """A run that remembers the largest magnitude."""

    largest = 0.0

    def node(
        self, node: Node, operands: Sequence[Reference | None], rounds: Mapping[str, int]
    ) -> tuple[Reference, ...]:
        results = super().node(node, operands, rounds)
        for result in results:
            if result.dtype.kind == "f":
                finite = np.abs(result, where=np.isfinite(result), out=np.zeros_like(result))
                self.largest = max(self.largest, float(finite.max(initial=0.0)))
        return results


class _Rounding(_Run):
    """A run that rounds every result to the type of its value."""

    def node(
        self, node: Node, operands: Sequence[Reference | None], rounds: Mapping[str, int]
    ) -> tuple[Reference, ...]:
        results = super().node(node, operands, rounds)
        return tuple(rounded(array, value.type.dtype) for array, value in zip(results, node.outputs, strict=True))


Running = TypeVar("Running", bound=_Run)


class _Parameters(dict[str, Reference]):
    """A block's parameters by local name, converted to float64 on access, so only one layer at a time is float64."""

    def __init__(self, params: Mapping[str, Reference], name: Callable[[str], str]) -> None:
        super().__init__()
        self.params, self.name = params, name

    def __missing__(self, local: str) -> Reference:
        self[local] = np.asarray(self.params[self.name(local)], np.float64)
        return self[local]
