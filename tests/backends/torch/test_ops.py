"""Every op in PyTorch against its reference: each sample of each entry of OPS is a case."""

from __future__ import annotations

import numpy as np
import pytest

from flashir import interpret
from flashir.errors import TargetError
from flashir.ir import Builder, Graph
from flashir.ir.examples import sample_graph
from flashir.ops import OPS, OpDef, Sample
from flashir_torch import TorchBackend, module
from flashir_torch.claims import NATIVE
from flashir_torch.emit import STRUCTURED
from flashir_torch.emitters import EMITTERS, NUMBERS
from tests.backends.torch.support import Array, session
from tests.cover import sample_cases
from tests.support import random_array, random_inputs, random_parameters, scan_of


@sample_cases(NATIVE)
def test_every_sample_of_an_op_gives_the_reference_and_its_type(record: OpDef, case: Sample) -> None:
    graph = sample_graph(record, case)
    check(graph, *random_inputs(graph, high=case.high))


def check(graph: Graph, *inputs: Array) -> None:
    params = random_parameters(graph)
    made, wanted = session(graph, params).outputs(inputs), interpret(graph, params, *inputs)
    for got, expected, value in zip(made, wanted, graph.outputs, strict=True):
        assert got.shape == expected.shape
        assert (
            str(got.dtype)
            == {"f64": "float64", "f32": "float32", "i32": "int32", "bool": "bool"}[str(value.type.dtype)]
        )
        scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected)) if expected.dtype.kind == "f" else 1
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * scale)


def test_the_table_holds_what_is_claimed() -> None:
    primitive = {name for name, op in OPS.items() if op.is_primitive}
    assert set(EMITTERS) | STRUCTURED == primitive | set(NATIVE)
    assert set(EMITTERS) >= NUMBERS


def test_claims_have_conditions() -> None:
    """A norm whose scale is one number is no `layer_norm` of PyTorch."""
    b = Builder("norms")
    x, vector, number = (b.input(name, text) for name, text in (("x", "f32[2, 4]"), ("v", "f32[4]"), ("n", "f32[]")))
    graph = b.finish(b.layer_normalization(x, vector, vector), b.layer_normalization(x, number, number))
    assert [TorchBackend().claims(node) for node in graph.nodes] == [True, False]
    check(graph, *random_inputs(graph))


def test_the_extremes_of_no_whole_numbers_are_the_ends_of_the_type() -> None:
    b = Builder("extremes")
    x = b.input("x", "i32[0, 2]")
    graph = b.finish(b.reduce_max(x, axes=(0,)), b.reduce_min(x, axes=(0,)))
    most, least = session(graph, {}).outputs([np.zeros((0, 2), np.int32)])
    assert most.tolist() == [np.iinfo(np.int32).min] * 2
    assert least.tolist() == [np.iinfo(np.int32).max] * 2


def test_no_axes_are_none() -> None:
    b = Builder("axes")
    x = b.input("x", "f32[2, 3]")
    graph = b.finish(b.reduce_sum(x, axes=()), b.reduce_max(x, axes=()))
    check(graph, *random_inputs(graph))


def test_constants_alone_and_on_either_side() -> None:
    b = Builder("numbers")
    x, two = b.input("x", "f32[3]"), b.constant(2.0)
    yes = b.less(two, x)
    graph = b.finish(
        two, b.sub(two, x), b.div(two, x), b.maximum(two, x), b.minimum(x, two), b.less_equal(two, x),
        b.select(yes, two, x), b.select(yes, two, 3.0), b.broadcast(two, shape=(2, 2)),
    )  # fmt: skip
    for each in (graph, Builder("constant")):
        if isinstance(each, Builder):
            each = each.finish(each.add(each.constant(1.0), each.constant(2.0)))
        check(each, *random_inputs(each))


@pytest.mark.parametrize(("shape", "axis"), [("f32[3, 4]", 0), ("f32[3, 4]", 1), ("f32[2, 3, 4]", 2), ("f32[2, 0]", 1)])
def test_scan_along_every_axis(shape: str, axis: int) -> None:
    graph = scan_of(shape, axis)
    check(graph, random_array(graph.inputs[0].type, 1))


def test_an_op_without_emitter_is_named() -> None:
    b = Builder("whole")
    graph = b.finish(b.flash(b.input("x", "f32[1, 4, 8]"), chunk=2, key_dim=4, cumsum="scan"))
    with pytest.raises(TargetError, match=r"no emitter for flash of @whole(.|\n)*lower the graph first"):
        module(graph, random_parameters(graph))
