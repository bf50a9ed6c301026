"""Every op on JAX against its reference: each sample of each entry of OPS is a case."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flashir import interpret
from flashir.errors import TargetError
from flashir.ir import Builder, DType
from flashir.ir.examples import sample_graph
from flashir.ops import OPS, OpDef, Sample
from flashir_jax.claims import COMPOSITES
from flashir_jax.functions import STRUCTURED
from flashir_jax.rules import RULES
from tests.backends.jax.support import applied
from tests.cover import GRID
from tests.support import random_array, random_inputs, random_parameters, scan_of


def marks(record: OpDef) -> tuple[pytest.MarkDecorator, ...]:
    """What only decomposes is made of ops that are cases themselves."""
    return () if record.is_primitive or record.name in COMPOSITES else GRID


CASES = [
    pytest.param(record, case, id=f"{record.name}-{i}", marks=marks(record))
    for record in OPS.values()
    for i, case in enumerate(record.samples)
    if "f64" not in str(case.attrs.get("dtype"))
]


@pytest.mark.parametrize(("record", "case"), CASES)
def test_every_op(record: OpDef, case: Sample) -> None:
    graph = sample_graph(record, case)
    inputs, params = random_inputs(graph, high=case.high), random_parameters(graph)
    made, wanted = jax.jit(applied(graph).results)(params, *inputs), interpret(graph, params, *inputs)
    for got, expected, value in zip(made, wanted, graph.outputs, strict=True):
        assert got.shape == expected.shape
        assert str(got.dtype) == {"f32": "float32", "i32": "int32", "bool": "bool"}[str(value.type.dtype)]
        scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected)) if expected.dtype.kind == "f" else 1
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-5 * scale)


def test_the_table_holds_what_is_claimed() -> None:
    assert set(RULES) | STRUCTURED == {name for name, op in OPS.items() if op.is_primitive} | COMPOSITES | STRUCTURED


def test_the_extremes_of_no_whole_numbers_are_the_ends_of_the_type() -> None:
    b = Builder("extremes")
    x = b.input("x", "i32[0, 2]")
    graph = b.finish(b.reduce_max(x, axes=(0,)), b.reduce_min(x, axes=(0,)))
    most, least = applied(graph)({}, np.zeros((0, 2), np.int32))
    assert most.tolist() == [np.iinfo(np.int32).min] * 2
    assert least.tolist() == [np.iinfo(np.int32).max] * 2


def test_a_row_that_is_not_there_is_not_a_number() -> None:
    b = Builder("rows")
    graph = b.finish(b.gather(b.input("table", "f32[3, 2]"), b.input("ids", "i32[2]")))
    rows = np.asarray(applied(graph)({}, np.ones((3, 2)), np.array([2, 3])))
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()


@pytest.mark.parametrize(
    ("shape", "axis"), [("f32[3, 4, 2]", 0), ("f32[3, 4, 2]", 1), ("f32[3, 4, 2]", 2), ("f32[3, 0, 2]", 1)]
)
def test_scan(shape: str, axis: int) -> None:
    graph = scan_of(shape, axis)
    array = random_array(graph.inputs[0].type, 1)
    for got, expected in zip(applied(graph).results({}, array), interpret(graph, {}, array), strict=True):
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("length", "exclusive"), [(0, True), (1, False), (5, True), (33, False)])
def test_running_sums_of_any_length(length: int, exclusive: bool) -> None:
    b = Builder("sums")
    graph = b.finish(b.cumsum(b.input("x", "f32[2, T]"), axis=-1, exclusive=exclusive))
    x = np.random.default_rng(0).standard_normal((2, length))
    np.testing.assert_allclose(jax.jit(applied(graph))({}, x), interpret(graph, {}, x)[0], rtol=1e-5, atol=1e-6)


def test_float64_is_refused_where_64_bits_are_disabled() -> None:
    b = Builder("wide")
    graph = b.finish(b.cast(b.input("x", "f32[2]"), dtype=DType.F64))
    with pytest.raises(TargetError, match="64 bits disabled"):
        applied(graph)({}, np.ones(2))


def test_what_is_not_lowered_is_named() -> None:
    from flashir_jax import function
    from tests.backends.jax.support import flash

    with pytest.raises(TargetError, match=r"no rule for embed, flash, .*\nlower"):
        function(flash())
