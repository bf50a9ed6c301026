"""What holds of every op, tested from its record: each sample of each entry of OPS is a case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import isfinite

import numpy as np
import pytest

from flashir import interpret
from flashir.ir import Builder, Graph, dumps, loads
from flashir.ir.examples import sample_graph
from flashir.ir.op import REQUIRED
from flashir.ir.verify import verify
from flashir.ops import OPS, OpDef, Sample, opdef, sample
from flashir.transforms.lower import Lower
from tests.cover import quick_samples, slow_samples
from tests.support import (
    Array,
    assert_equal_results,
    cost_of,
    lowered,
    random_inputs,
    random_parameters,
)

WITH_REGIONS = {"scan", "repeat"}  # their cases are written by hand, in test_regions.py


@dataclass(frozen=True)
class Example:
    """A sample of an op as a graph, with operands and parameters; what several tests ask of it is found once."""

    record: OpDef
    sample: Sample

    @cached_property
    def graph(self) -> Graph:
        return sample_graph(self.record, self.sample)

    @cached_property
    def operands(self) -> tuple[list[Array], dict[str, Array]]:
        return random_inputs(self.graph, high=self.sample.high), random_parameters(self.graph)

    @cached_property
    def results(self) -> tuple[Array, ...]:
        return self.results_of(self.graph)

    @cached_property
    def decomposed(self) -> Graph:
        return Lower().apply(self.graph)

    def results_of(self, graph: Graph) -> tuple[Array, ...]:
        inputs, params = self.operands
        return interpret(graph, params, *inputs)


@cache
def example(record: str, place: int) -> Example:
    return Example(OPS[record], OPS[record].samples[place])


def examples(only_composites: bool) -> pytest.MarkDecorator:
    """A case for each op with samples: those of `quick_samples` always, the others where slow tests are asked for."""
    cases = []
    for name, record in OPS.items():
        if not only_composites or record.decompose is not None:
            for places, marks in ((quick_samples(name), ()), (slow_samples(name), pytest.mark.slow)):
                label = f"{name}-rest" if marks else name
                cases += [pytest.param(record, places, id=label, marks=marks)] if places else []
    return pytest.mark.parametrize(("record", "places"), cases)


def each(record: OpDef, places: tuple[int, ...]) -> Iterator[Example]:
    """The examples one after another; where a test fails, the last line that it printed is the sample."""
    for place in places:
        print(f"sample {place}: {record.samples[place]}")
        yield example(record.name, place)


every_op = examples(only_composites=False)
every_composite = examples(only_composites=True)


def records() -> Iterator[OpDef]:
    """Every record; where a test fails, the last line that it printed is its name."""
    for name, record in OPS.items():
        print(name)
        yield record


@every_op
def test_results_have_the_inferred_types(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        types = [(v.type.sizes, v.type.dtype.reference_dtype) for v in one.graph.outputs]
        assert [(x.shape, x.dtype) for x in one.results] == types


@every_composite
def test_the_reference_and_the_decomposition_agree(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        assert all(opdef(node.op).is_primitive for node in one.decomposed.walk())
        assert_equal_results(one.results_of(one.decomposed), one.results)


@every_composite
def test_the_whole_lowering_keeps_the_meaning(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        assert_equal_results(one.results_of(lowered(one.graph)), one.results)


@every_composite
def test_the_decomposition_is_well_formed_and_keeps_the_types(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        verify(one.decomposed)
        assert [v.type for v in one.decomposed.outputs] == [v.type for v in one.graph.outputs]


@every_composite
def test_the_decomposition_takes_one_step_at_a_time(record: OpDef, places: tuple[int, ...]) -> None:
    """Lowering to whatever the op is made of directly is well formed as well: a target may claim any level."""
    one_step = Lower("one step", lambda node: node.op != record.name)
    for one in each(record, places):
        step = one_step.apply(one.graph)
        verify(step)
        assert record.name not in {node.op for node in step.nodes}
        assert_equal_results(one.results_of(step), one.results)


@every_op
def test_the_cost_is_finite_and_not_negative(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        cost = cost_of(one.graph)
        for amount in (cost.flops, cost.read, cost.written, cost.steps, cost.matrix_flops):
            assert isfinite(amount)
            assert amount >= 0


@every_composite
def test_the_cost_counts_the_products_that_the_decomposition_takes(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        stated, taken = cost_of(one.graph).matrix_flops, cost_of(one.decomposed).matrix_flops
        if record.name == "softmax_attention" and one.sample.attrs["causal"]:  # one kernel skips what is masked
            t = one.graph.inputs[0].type.sizes[-2]
            assert stated * t == taken * ((t + 1) // 2)
        elif record.name in CHUNKED:  # where the last chunk is padded, and masks of G x G come on top
            assert taken / 2 <= stated <= taken
        elif record.name != "prefix_sum":  # a product is only one of its strategies
            assert stated == taken


@every_op
def test_the_text_of_the_op_reads_back(record: OpDef, places: tuple[int, ...]) -> None:
    for one in each(record, places):
        assert loads(dumps(one.graph)) == one.graph
        assert loads(dumps(one.graph, types=True)) == one.graph


def test_every_record_is_complete() -> None:
    for record in records():
        assert record.doc, "one line for people"
        assert record.samples or record.name in WITH_REGIONS
        assert callable(record.infer)
        assert callable(record.ref)
        assert callable(record.cost) or record.decompose is not None
        assert OPS[record.name] is record


def test_defaults_are_values_that_the_attribute_accepts() -> None:
    for record in records():
        for name, spec in record.attrs.items():
            if spec.default is not REQUIRED:
                asked_for = replace(spec, default=REQUIRED if spec.default is not None else None)
                assert asked_for.problem(name, spec.default) is None


def test_required_attributes_are_asked_for() -> None:
    for record in records():
        required = [name for name, spec in record.attrs.items() if spec.default is REQUIRED]
        if required:
            with pytest.raises(Exception, match=f"{record.name} needs the attribute '{required[0]}'"):
                record.complete({})
        else:
            assert set(record.complete({})) == set(record.attrs)


def test_an_attribute_of_the_wrong_kind_is_refused() -> None:
    for record in records():
        for name, spec in record.attrs.items():
            assert spec.problem(name, object()) is not None  # type: ignore[arg-type]


def test_too_few_operands_are_refused() -> None:
    for record in records():
        if record.arity[0]:
            with pytest.raises(Exception, match=r"takes .*operands|needs"):
                Builder().insert(record.name, [], {})


def test_there_are_about_forty_primitives() -> None:
    assert 30 <= sum(record.is_primitive for record in OPS.values()) <= 60
    assert {"flash", "gau", "chunked_recurrence", "rope"} <= {
        record.name for record in OPS.values() if not record.is_primitive
    }


def test_a_sample_that_lies_is_caught() -> None:
    """The comparison above can fail: a reference that is a thousandth off does."""
    record = OPS["relu2"]
    graph = sample_graph(record, sample("f32[4]"))
    x = random_inputs(graph)
    (right,) = interpret(graph, {}, *x)
    with pytest.raises(AssertionError):
        assert_equal_results((right * 1.001,), (right,))
    with pytest.raises(AssertionError):
        assert_equal_results((right[:2],), (right,))
    assert np.any(right)


CHUNKED = {
    "chunked_recurrence",
    "flash",
    "gated_mixed_attention",
    "linear_attention",
    "mc_mhsa",
    "performer",
}
