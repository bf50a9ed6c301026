"""The facts that stand on records: analyses find them there, and an op without them is refused when it is defined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flashir import Builder
from flashir.errors import SettingError
from flashir.ir.examples import sample_graph
from flashir.ir.folding import constant_of
from flashir.ir.traits import Axes
from flashir.ops import OPS, define_op
from flashir.transforms.canonicalise import Canonicalise
from tests.support import random_inputs


@pytest.mark.parametrize("missing", ["axes", "gradient"])
def test_a_primitive_without_a_trait_is_refused_by_name(missing: str) -> None:
    record = replace(OPS["relu"], name="unstated", **{missing: None})
    with pytest.raises(SettingError, match=f"the primitive 'unstated' does not say its {missing}"):
        define_op(record)
    assert "unstated" not in OPS


def test_every_problem_of_a_record_is_told_at_once() -> None:
    with pytest.raises(SettingError) as raised:
        define_op(replace(OPS["relu"], axes=None, gradient=None))
    assert len(raised.value.problems) == 3  # defined twice, no axes, no gradient


def test_an_op_has_the_attributes_by_which_it_says_more_of_its_axes() -> None:
    record = replace(OPS["repeat"], name="walks", axes=Axes.LOOP)
    with pytest.raises(SettingError, match=r"'walks' says axes=Axes\.LOOP, and has no attribute 'axis'"):
        define_op(record)
    assert "walks" not in OPS


ELEMENTWISE = [record for record in OPS.values() if record.is_elementwise]


@pytest.mark.parametrize("record", ELEMENTWISE, ids=lambda record: record.name)
def test_an_elementwise_op_computes_each_place_alone(record) -> None:
    """Reversing every operand that has the shape of the result reverses the result."""
    case = record.samples[0]
    graph = sample_graph(record, case)
    shape = graph.outputs[0].type.sizes
    operands = [np.broadcast_to(x, shape) for x in random_inputs(graph, high=case.high)]
    attrs = dict(graph.nodes[0].attrs)
    forward = record.ref(*operands, **attrs)
    backward = record.ref(*(x[..., ::-1] for x in operands), **attrs)
    np.testing.assert_array_equal(backward, forward[..., ::-1])


@pytest.mark.parametrize("record", [r for r in OPS.values() if r.commutative], ids=lambda record: record.name)
def test_a_commutative_op_takes_its_operands_in_either_order(record) -> None:
    x, y = random_inputs(sample_graph(record, record.samples[0]))
    np.testing.assert_array_equal(record.ref(x, y), record.ref(y, x))


@pytest.mark.parametrize("record", [r for r in OPS.values() if r.neutral is not None], ids=lambda record: record.name)
def test_a_neutral_operand_is_folded_away_and_changes_nothing(record) -> None:
    x = np.array([-1.5, 0.0, 2.0])
    np.testing.assert_array_equal(record.ref(x, np.float64(record.neutral)), x)
    b = Builder("neutral")
    value = b.input("x", "f32[3]")
    graph = b.finish(*b.insert(record.name, [value, b.constant(float(record.neutral))], {}))
    assert Canonicalise().apply(graph).outputs == Canonicalise().apply(graph).inputs


@pytest.mark.parametrize(
    "record", [r for r in ELEMENTWISE if r.is_primitive and not r.attrs], ids=lambda record: record.name
)
def test_an_elementwise_primitive_of_constants_is_a_constant(record) -> None:
    b = Builder("constants")
    types = [value.type for value in sample_graph(record, record.samples[0]).inputs]
    numbers = [b.constant(True if str(t.dtype) == "bool" else 0.5, t.dtype) for t in types]
    (result,) = b.insert(record.name, numbers, {})
    graph = Canonicalise().apply(b.finish(result))
    assert [node.op for node in graph.nodes] == ["constant"]


def test_no_composite_claims_to_be_structural() -> None:
    """Analyses look into composites, so those state only what a claimed one needs."""
    stated = {record.axes for record in OPS.values() if not record.is_primitive and record.axes is not None}
    assert stated <= {Axes.ELEMENTWISE, Axes.ALIGNED, Axes.LAST, Axes.MATMUL, Axes.SOURCE}


def test_a_value_that_is_no_constant_has_no_number() -> None:
    b = Builder("values")
    assert constant_of(b, b.input("x", "f32[3]")) is None
    assert constant_of(b, b.constant(2.5)) == 2.5
