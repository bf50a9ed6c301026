"""Every sample of every op, emitted and run, against the op's reference; one generated test each."""

from __future__ import annotations

import numpy as np
import pytest

from flashir import interpret
from flashir.ir import Builder, Graph
from flashir.ir.examples import sample_graph
from flashir.ops import OPS, OpDef, Sample
from flashir_onnx import OnnxBackend
from flashir_onnx.emit import STRUCTURED, emit
from flashir_onnx.emitters import EMITTERS
from flashir_onnx.session import Session
from tests.backends.onnx.support import lowered, relative_error
from tests.cover import sample_cases
from tests.support import random_inputs, random_parameters

TOLERANCE = 1e-5


@sample_cases(EMITTERS)
def test_every_sample_of_an_op_gives_the_reference_and_its_kind(record: OpDef, case: Sample) -> None:
    check(sample_graph(record, case), case.high)


def test_every_emitter_has_an_op_and_every_op_without_samples_is_structured() -> None:
    assert set(EMITTERS) <= set(OPS)
    assert {name for name, record in OPS.items() if not record.samples} <= STRUCTURED


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scan_along_every_axis(axis: int) -> None:
    b = Builder("scan")
    x = b.input("x", "f32[3, 4, 5]")
    step = x.type.with_shape(tuple(size for i, size in enumerate(x.type.shape) if i != axis))
    body = b.subgraph()
    state, item = body.input("state", step), body.input("item", step)
    after = body.add(body.mul(state, 0.5), item)
    zeros = b.broadcast(b.constant(0.0), shape=step.shape)
    check(b.finish(*b.results("scan", zeros, x, carries=1, axis=axis, body=body.finish(after, state))))


def test_repeats_within_repeats_and_without_rounds() -> None:
    """Layers of layers have functions that call functions; each layer has its own parameters."""
    b = Builder("nested")
    x = b.input("x", "f32[B, T, 8]")

    def pair(b: Builder, h: object) -> object:
        return b.repeat(b.layer_norm(h), times=2, body=lambda b, h: b.flash(h, key_dim=4, chunk=4, cumsum="scan"))

    graph = b.finish(b.repeat(b.repeat(x, times=3, body=pair), times=0, body=pair))
    params, inputs = random_parameters(graph), random_inputs(graph, {"B": 2, "T": 9})
    (got,) = Session(emit(lowered(graph), params), threads=1).outputs(inputs)
    assert len({name.partition(".norm")[0] for name in params if name.startswith("layers")}) >= 6
    assert relative_error(got, interpret(graph, params, *inputs)[0]) < 1e-4


def check(graph: Graph, high: int = 5) -> None:
    params, inputs = random_parameters(graph), random_inputs(graph, high=high)
    run = Session(emit(lowered(graph), {name: np.float32(p) for name, p in params.items()}), threads=1)
    results, wanted = run.outputs(inputs), interpret(graph, params, *inputs)
    for value, got, want in zip(graph.outputs, results, wanted, strict=True):
        assert got.dtype.kind == value.type.dtype.reference_dtype.kind
        finite = np.where(np.isfinite(want), want, 0)
        assert np.array_equal(got[~np.isfinite(want)], want[~np.isfinite(want)])
        assert relative_error(np.where(np.isfinite(want), got, 0), finite) < TOLERANCE


def test_the_backend_claims_its_table() -> None:
    graph = sample_graph(OPS["relu"], OPS["relu"].samples[0])
    assert OnnxBackend().claims(graph.nodes[0])
    graph = sample_graph(OPS["relu2"], OPS["relu2"].samples[0])
    assert not OnnxBackend().claims(graph.nodes[0])
