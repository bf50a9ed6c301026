"""A pass changes the graph, never the function: random graphs before and after, through the interpreter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashir import Graph, interpret, loads
from flashir.backends.lowering import Lowering
from flashir.ir import symbol
from flashir.ir.parameter_names import parameters, with_scopes
from flashir.ir.verify import verify
from flashir.ops import opdef
from flashir.transforms import Pass
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.hoist import Hoist
from flashir.transforms.lower import Decompose, EinsumToMatmul, Lower
from flashir.transforms.name_parameters import NameParameters
from flashir.transforms.pad import Pad
from flashir.transforms.settle_choices import settle
from flashir.transforms.split_activations import SplitActivations
from flashir.transforms.split_projections import SplitProjections
from flashir.transforms.widen_scan import WidenScan
from tests.strategies import blocks, primitive_graphs
from tests.support import assert_equal_results, assert_same_function, random_inputs, random_parameters

LENGTHS = st.integers(0, 13)
BATCHES = st.integers(0, 2)
EVERY_PASS = [
    NameParameters(),
    Pad(),
    Lower(),
    Decompose(("flash", "gau", "chunked_recurrence")),
    EinsumToMatmul(),
    Hoist(),
    Canonicalise(),
    SplitActivations(),
    SplitProjections(),
    WidenScan(),
]


@settings(max_examples=5)
@given(graph=blocks(), batch=BATCHES, length=LENGTHS)
def test_every_pass_keeps_the_meaning_of_blocks(graph: Graph, batch: int, length: int) -> None:
    check_passes(graph, {"B": batch, "T": length})


@settings(max_examples=5)
@given(graph=blocks().map(with_scopes).map(Lower().apply), length=LENGTHS)
def test_every_pass_keeps_the_meaning_of_what_is_lowered(graph: Graph, length: int) -> None:
    check_passes(graph, {"B": 1, "T": length})


@pytest.mark.slow
@settings(max_examples=40)
@given(graph=blocks(), length=LENGTHS)
def test_every_pass_keeps_the_meaning_of_many_more_graphs(graph: Graph, length: int) -> None:
    for whole in (graph, Lower().apply(with_scopes(graph))):
        check_passes(whole, {"B": 1, "T": length})


@given(graph=primitive_graphs(), batch=st.integers(0, 4))
def test_every_pass_keeps_the_meaning_of_primitives(graph: Graph, batch: int) -> None:
    check_passes(graph, {"B": batch})


@pytest.mark.slow
@settings(max_examples=20)
@given(graph=blocks(), batch=BATCHES, length=LENGTHS)
def test_the_whole_lowering_keeps_the_meaning(graph: Graph, batch: int, length: int) -> None:
    check_lowering(graph, batch, length)


@pytest.mark.slow
@settings(max_examples=300)
@given(graph=blocks(), batch=BATCHES, length=LENGTHS)
def test_it_does_so_on_many_more_graphs(graph: Graph, batch: int, length: int) -> None:
    check_lowering(graph, batch, length)


def check_lowering(graph: Graph, batch: int, length: int) -> None:
    lowered = Lowering("primitives").run(graph)
    assert all(opdef(node.op).is_primitive for node in lowered.walk())
    check(graph, lowered, {"B": batch, "T": length})


CLAIMED = ("flash", "gau", "chunked_recurrence", "linear_attention", "rope", "dense", "silu")


@settings(max_examples=5)
@given(graph=blocks(), length=LENGTHS)
def test_lowering_keeps_the_meaning_whatever_the_target_claims(graph: Graph, length: int) -> None:
    own = {node.op for node in Decompose(("flash", "gau")).apply(graph).walk()} | {node.op for node in graph.walk()}
    for claimed in [op for op in CLAIMED if op in own]:
        lowering = Lowering("primitives", lambda node, op=claimed: node.op == op or opdef(node.op).is_primitive)  # type: ignore[misc]
        check(graph, lowering.run(graph), {"B": 1, "T": length})


@pytest.mark.slow
@settings(max_examples=15)
@given(graph=st.sampled_from([3, 4, 6]).flatmap(lambda t: blocks(length=t)))
def test_it_does_so_where_the_length_is_known(graph: Graph) -> None:
    check(graph, Lowering("primitives").run(graph), {"B": 2})


@settings(max_examples=15)
@given(graph=blocks(length=symbol("T") * 6), rounds=st.integers(0, 2))
def test_it_does_so_where_every_chunk_is_known_to_be_whole(graph: Graph, rounds: int) -> None:
    """The length is six times another one, so that all these chunks but 4 divide it and nothing is padded."""
    by_length = loads(str(graph).replace("model @stack(", "model @stack(%t: f32[T], "))
    check(by_length, Lowering("primitives").run(by_length), {"B": 1, "T": rounds})


@pytest.mark.slow
@settings(max_examples=15)
@given(graph=blocks(open_choices=True), chunk=st.integers(1, 5), cumsum=st.sampled_from(["scan", "matmul", "native"]))
def test_a_model_whose_choices_are_made_lowers(graph: Graph, chunk: int, cumsum: str) -> None:
    chosen = settle(graph, {"chunk": chunk, "cumsum": cumsum})
    check(chosen, Lowering("primitives").run(chosen), {"B": 1, "T": 5})


@pytest.mark.slow
@settings(max_examples=10)
@given(graph=blocks(), length=LENGTHS)
def test_strategies_of_the_cumulative_sum_are_one_function(graph: Graph, length: int) -> None:
    for strategy in ("scan", "matmul", "native"):
        changed = loads(re.sub('cumsum = "[a-z]+"', f'cumsum = "{strategy}"', str(graph)))
        check(graph, Lowering("primitives").run(changed), {"B": 1, "T": length})


@given(graph=blocks() | primitive_graphs(), each=st.sampled_from(EVERY_PASS))
def test_a_pass_says_whether_it_changed_anything(graph: Graph, each: Pass) -> None:
    result = each(graph)
    assert result.modified == (result.graph != graph)


@given(graph=primitive_graphs() | blocks().map(with_scopes).map(Lower().apply))
def test_what_is_canonical_stays_as_it_is(graph: Graph) -> None:
    once = Canonicalise().apply(graph)
    assert Canonicalise().apply(once) == once
    assert len(list(once.walk())) <= len(list(graph.walk()))


@settings(max_examples=15)
@given(graph=blocks())
def test_what_is_lowered_stays_as_it_is(graph: Graph) -> None:
    once = Lower().apply(graph)
    assert Lower().apply(once) == once


def test_a_chunk_of_padding_alone_is_seen_by_no_other() -> None:
    """The first layer pads three tokens to six; to the second layer the last two are a chunk without an id."""
    graph = loads(
        """model @padded(%ids: i32[B, T], %segment_ids: i32[B, T]) -> f32[B, T, 5] {
          %x = embed(%ids) {vocab = 5, dim = 4}
          %y = flash(%x, segment_ids = %segment_ids) {key_dim = 2, chunk = 6, causal = false, cumsum = "scan"}
          %z = flash(%y, segment_ids = %segment_ids) {key_dim = 2, chunk = 2, cumsum = "native", lin_norm = "chunk"}
          %n = layer_norm(%z)
          %l = unembed(%n) {vocab = 5, tied = false}
          return %l
        }"""
    )
    lowering = Lowering("primitives", lambda node: node.op == "chunked_recurrence" or opdef(node.op).is_primitive)
    check(graph, lowering.run(graph), {"B": 2, "T": 3})


def check_passes(graph: Graph, sizes: dict[str, int]) -> None:
    """Every pass, on its own, keeps the function of a graph."""
    inputs, params = random_inputs(graph, sizes), random_parameters(graph)
    wanted = interpret(graph, params, *inputs)
    for each in EVERY_PASS:
        after = each.apply(graph)
        if after is not graph:
            check_interface(graph, after)
            assert_equal_results(interpret(after, params, *inputs), wanted)


def check(before: Graph, after: Graph, sizes: dict[str, int]) -> None:
    check_interface(before, after)
    assert_same_function(before, after, sizes)


def check_interface(before: Graph, after: Graph) -> None:
    """The graph after a pass is valid, and has the results and the parameters of the one before."""
    verify(after)
    assert [v.type for v in after.outputs] == [v.type for v in before.outputs]
    old, kept = parameters(before), parameters(after)
    assert all(old[name].shape == spec.shape for name, spec in kept.items())
