"""What the tests of the compiler share: graphs of one op, random operands and parameters, costs, comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flashir import dumps, interpret
from flashir.backends.lowering import Lowering
from flashir.cost.node_cost import graph_cost
from flashir.ir import Builder, DType, Graph, TensorType, parse_type
from flashir.ir.parameter_names import parameters
from flashir.ir.settings import Settings
from flashir.ops import Cost
from flashir.planning.candidates import Candidate
from flashir.planning.predict import Predictor

Array = npt.NDArray[Any]
TIGHT = 1e-9


def random_array(type_: TensorType, seed: int, high: int = 5) -> Array:
    """Unit-scale floats, whole numbers below `high`, or coin flips, always the same for the same seed."""
    random = np.random.default_rng(seed)
    if type_.dtype.is_float:
        return random.normal(size=type_.sizes)
    return random.integers(0, 2 if type_.dtype is DType.BOOL else high, type_.sizes).astype(type_.dtype.reference_dtype)


def random_inputs(graph: Graph, sizes: Mapping[str, int] | None = None, high: int = 5) -> list[Array]:
    """Operands for every input of the graph, its symbols replaced by those sizes."""
    return [random_array(value.type.bind(sizes or {}), seed, high) for seed, value in enumerate(graph.inputs)]


def random_parameters(graph: Graph) -> dict[str, Array]:
    """Unit-scale parameters, whatever a model would start with."""
    specs = parameters(graph).items()
    return {name: np.random.default_rng(1000 + i).normal(size=spec.shape) for i, (name, spec) in enumerate(specs)}


def scan_of(shape: str, axis: int) -> Graph:
    """A scan along an axis that carries a sum, and yields it doubled and as it was before."""
    b = Builder("loop")
    x = b.input("x", shape)
    step = x.type.with_shape((*x.type.shape[:axis], *x.type.shape[axis + 1 :]))
    body = b.subgraph()
    state, item = body.input("state", step), body.input("item", step)
    total = body.add(state, item)
    zeros = b.broadcast(b.constant(0.0), shape=step.shape)
    loop = body.finish(total, body.add(total, item), state)
    return b.finish(*b.results("scan", zeros, x, carries=1, axis=axis, body=loop))


def lowered(graph: Graph) -> Graph:
    """The graph at the lowest level, by the lowering that every target runs."""
    return Lowering("primitives").run(graph)


def assert_equal_results(got: tuple[Array, ...], wanted: tuple[Array, ...], tolerance: float = TIGHT) -> None:
    """Equal in number, shapes and values, relative to the largest of each."""
    assert len(got) == len(wanted)
    for x, y in zip(got, wanted, strict=True):
        assert x.shape == y.shape
        scale = np.max(np.abs(y), initial=1.0, where=np.isfinite(y)) if y.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


def assert_same_function(one: Graph, other: Graph, sizes: Mapping[str, int] | None = None, high: int = 5) -> None:
    """Both graphs give the same results for the same random inputs and parameters."""
    inputs, params = random_inputs(one, sizes, high), random_parameters(one)
    assert_equal_results(interpret(other, params, *inputs), interpret(one, params, *inputs))


def cost_of(graph: Graph, sizes: Mapping[str, int] | None = None) -> Cost:
    """The cost of a whole graph."""
    return graph_cost(graph, sizes or {})


def typed(text: str) -> TensorType:
    """A type from its text."""
    return parse_type(text)


PREDICTIONS: dict[tuple[str, ...], Candidate] = {}
"""Candidates by all that a prediction depends on."""


@contextmanager
def predictions_made_once() -> Iterator[None]:
    """Lower and price each candidate once for all tests that plan the same small models."""
    predict = Predictor.predict

    def remembered(predictor: Predictor, graph: Graph, settings: Settings) -> Candidate:
        known = (predictor.target, predictor.workload, predictor.portable, settings, os.environ.get("FLASHIR_MESH"))
        key = (*map(repr, known), dumps(graph))
        if key not in PREDICTIONS:
            PREDICTIONS[key] = predict(predictor, graph, settings)
        return PREDICTIONS[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", remembered)
        yield
