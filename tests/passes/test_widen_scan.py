"""widen-scan: all of a layer moves into the loop over chunks, and the function stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import flashir
from flashir import Builder, Graph, interpret
from flashir.backends.lowering import Lowering
from flashir.ir import Node
from flashir.reference.compare import relative_error
from flashir.transforms.widen_scan import WidenScan
from tests.support import random_inputs, random_parameters

CHUNK = 4
PLAIN = Lowering("test")
WIDE = replace(PLAIN, extra=(WidenScan(),))


def tiny(name: str = "flash", **settings: Any) -> Graph:
    given = {"d_model": 8, "key_dim": 4, "depth": 2, "vocab": 16, "chunk": CHUNK, "cumsum": "scan", **settings}
    return flashir.model(name, **given)


def loops(graph: Graph) -> list[Node]:
    return [node for node in graph.walk() if node.op == "scan"]


def products(graph: Graph | None) -> int:
    assert graph is not None
    return sum(node.op in ("matmul", "dense") for node in graph.walk())


def check(model: Graph, length: int, batch: int = 2) -> Graph:
    """The widened graph, which computes what the other one does."""
    params = random_parameters(model)
    wide = WIDE.run(model)
    inputs = random_inputs(model, {"B": batch, "T": length})
    wanted = interpret(PLAIN.run(model), params, *inputs)[0]
    assert relative_error(interpret(wide, params, *inputs)[0], wanted) < 1e-12
    return wide


@pytest.mark.parametrize("length", [0, 1, CHUNK, 2 * CHUNK, 4 * CHUNK + 1])
@pytest.mark.parametrize("lin_norm", ["none", "chunk", "chunk_mean"])
def test_a_layer_of_flash_is_one_loop(lin_norm: str, length: int) -> None:
    wide = check(tiny(lin_norm=lin_norm), length)
    (loop,) = loops(wide)
    assert products(loop.region) == 6  # proj_in; scores, and what they weigh; out of the state, into it; proj_out
    assert products(wide) == products(loop.region) + 1  # the logits


@pytest.mark.parametrize(
    "settings",
    [
        {"segments": True},
        {"use_local": False},
        {"overlap": True},
        {"token_shift": True},
        {"summaries": "attend"},
        {"causal": False},
        {"rope_dims": 2, "rope_interleaved": True},
        {"norm": "scale_norm"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_what_chunks_share_stays_outside(settings: dict[str, Any]) -> None:
    check(tiny(**settings), 3 * CHUNK + 1)


@pytest.mark.parametrize(
    "model",
    [
        flashir.model("performer", d_model=8, heads=2, depth=2, vocab=16, cumsum="scan", tile=4),
        flashir.model("mc-transformer++", d_model=8, heads=2, depth=2, vocab=16, cumsum="scan", chunk=4),
    ],
    ids=lambda model: model.name,
)
def test_other_systems_stay_what_they_are(model: Graph) -> None:
    check(model, 9)


@pytest.mark.parametrize("length", [8, 16, 64])
def test_sizes_that_are_known_and_equal_mislead_nobody(length: int) -> None:
    """Chunks, tokens, heads and widths of 4, 8 and 16: an axis of the right size need not be that of the tokens."""
    b = Builder("known")
    x = b.input("x", f"f32[4, {length}, 8]")
    graph = b.finish(b.flash(b.flash(x, key_dim=4, chunk=4, cumsum="scan"), key_dim=8, chunk=4, cumsum="scan"))
    params, inputs = random_parameters(graph), random_inputs(graph, {})
    wide = WIDE.run(graph)
    assert len(loops(wide)) == 1  # both layers in one loop
    wanted = interpret(PLAIN.run(graph), params, *inputs)[0]
    assert relative_error(interpret(wide, params, *inputs)[0], wanted) < 1e-12


def test_layers_of_other_chunks_have_loops_of_their_own() -> None:
    b = Builder("mixed")
    x = b.input("x", "f32[2, 32, 8]")
    graph = b.finish(b.flash(b.flash(x, key_dim=4, chunk=4, cumsum="scan"), key_dim=4, chunk=8, cumsum="scan"))
    params, inputs = random_parameters(graph), random_inputs(graph)
    wide = WIDE.run(graph)
    assert len(loops(wide)) == 2
    wanted = interpret(PLAIN.run(graph), params, *inputs)[0]
    assert relative_error(interpret(wide, params, *inputs)[0], wanted) < 1e-12


def test_a_graph_without_loops_is_left_alone() -> None:
    graph = PLAIN.run(tiny(cumsum="native"))
    assert WidenScan().apply(graph) is graph


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("performer", {"tile": CHUNK}),
        ("performer", {"tile": CHUNK, "rope": False, "norm": "scale_norm"}),
        ("mc-transformer++", {"chunk": CHUNK}),
    ],
)
def test_a_layer_in_heads_is_one_loop_where_tokens_are_whole_chunks(name: str, settings: dict[str, Any]) -> None:
    model = flashir.model(name, d_model=8, depth=2, vocab=16, heads=2, cumsum="scan", **settings)
    text = flashir.dumps(model).replace("T]", f"{4 * CHUNK}]").replace("T, ", f"{4 * CHUNK}, ")
    wide = check(flashir.loads(text), 4 * CHUNK)
    (loop,) = loops(wide)
    assert products(wide) == products(loop.region) + 1  # the logits


def test_a_loop_whose_state_decays_takes_its_layer_in() -> None:
    b = Builder("decaying")
    x = b.input("x", f"f32[B, {3 * CHUNK}, 4]")
    y = b.layer_norm(x)
    sums = {"causal": True, "lin_norm": "none", "tile": CHUNK, "cumsum": "scan"}
    out = b.chunked_recurrence(y, lin_q=y, lin_k=y, decay=b.constant(-0.5), **sums)
    wide = check(b.finish(b.add(out, x)), 3 * CHUNK)
    (loop,) = loops(wide)
    assert products(wide) == products(loop.region) == 4
