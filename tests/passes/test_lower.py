"""Claim or descend: what the target does not claim is replaced by what it is made of."""

from __future__ import annotations

import pytest

from flashir import FlashirError, Graph, loads
from flashir.backends.lowering import Lowering
from flashir.ops import OPS
from flashir.transforms.lower import Decompose, EinsumToMatmul, Lower
from flashir.transforms.pad import Pad
from flashir.transforms.set_dtype import SetDType
from flashir.transforms.split_projections import SplitProjections
from tests.support import assert_same_function

MODEL = """
model @m(%ids: i32[B, T]) -> f32[B, T, 5] {
  %x = embed(%ids) {vocab = 5, dim = 4}
  %y = repeat(%x) {times = 2} (%h) {
    %o = flash(%h) {chunk = 3, key_dim = 2, cumsum = "native"}
    yield %o
  }
  %z = unembed(%y)
  return %z
}
"""


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.walk()]


def test_what_is_claimed_stays_whole() -> None:
    graph = loads(MODEL)
    assert "flash" in ops(Lower("greedy", lambda node: True).apply(graph))
    assert Lower("greedy", lambda node: node.op != "embed").apply(graph).nodes[1].op == "gather"


def test_a_claim_may_depend_on_the_attributes() -> None:
    made = Lower("t", lambda node: node.op != "flash" or node.attrs["chunk"] == 3).apply(loads(MODEL))
    assert "flash" in ops(made)
    made = Lower("t", lambda node: node.op != "flash" or node.attrs["chunk"] == 4).apply(loads(MODEL))
    assert "flash" not in ops(made)


def test_a_primitive_that_nobody_claims_is_named() -> None:
    with pytest.raises(FlashirError, match="abacus:cpu cannot do the op 'exp', and it has no decomposition"):
        Lower("abacus:cpu", lambda node: node.op != "exp").apply(
            loads("model @m(%x: f32[2]) { %y = exp(%x) return %y }")
        )


@pytest.mark.parametrize(("setting", "named"), [("chunk = 3, ", "chunk"), (', cumsum = "native"', "cumsum")])
def test_an_open_choice_is_named(setting: str, named: str) -> None:
    with pytest.raises(FlashirError, match=f"{named} of flash must be chosen before it can be lowered"):
        Lower().apply(loads(MODEL.replace(setting, "")))


def test_decompose_takes_apart_only_what_it_is_told_to() -> None:
    made = Decompose(("flash",)).apply(loads(MODEL))
    assert "flash" not in ops(made)
    assert {"chunked_recurrence", "rope", "dense", "embed"} <= set(ops(made))


def test_no_einsum_is_left_whatever_the_target_claims() -> None:
    graph = loads(
        'model @m(%x: f32[T, 4], %y: f32[T, 3]) {\n %z = einsum(%x, %y) {equation = "ta,tb->ab"}\n return %z }'
    )
    lowered = Lowering("t", lambda node: node.op == "einsum" or OPS[node.op].is_primitive).run(graph)
    assert ops(lowered) == ["matmul"]
    assert_same_function(graph, EinsumToMatmul().apply(graph), {"T": 5})


def test_tokens_are_padded_once_and_the_layers_told() -> None:
    graph = loads(MODEL)
    made = Pad().apply(graph)
    assert ops(made) == ["pad", "embed", "repeat", "flash", "slice", "unembed"]
    (flash,) = (node for node in made.walk() if node.op == "flash")
    assert str(flash.attrs["valid"]) == "T"
    assert str(flash.output.type.shape[1]) == "3*ceildiv(T, 3)"
    for length in (0, 1, 3, 4):
        assert_same_function(graph, made, {"B": 2, "T": length})


@pytest.mark.parametrize("length", ["T", "7"])
def test_a_length_of_whole_chunks_is_not_padded(length: str) -> None:
    whole = MODEL.replace("T", f"3*{length}") if length == "7" else MODEL.replace("chunk = 3", "chunk = 1")
    assert Pad().apply(loads(whole)) == loads(whole)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("gau", "key_dim = 2"),
        ("flash", "key_dim = 2, chunk = auto"),
        ("cumsum", "axis = 1"),
        ("mhsa", "heads = 2, causal = false"),
        ("mhsa", 'heads = 2, attention = "relu2"'),
        ("combiner", "heads = 2, chunk = 3, causal = false"),
        ("learned_position", "max_len = 4"),
    ],
)
def test_a_model_with_another_op_between_its_tokens_is_not_padded(op: str, attrs: str) -> None:
    text = MODEL.replace("  %z = unembed(%y)", f"  %w = {op}(%y) {{{attrs}}}\n  %z = unembed(%w)")
    assert Pad().apply(loads(text)) == loads(text)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("mhsa", "heads = 2"),
        ("performer", 'heads = 2, tile = 2, cumsum = "native"'),
        ("combiner", "heads = 2, chunk = 2"),
        ("mc_mhsa", 'heads = 2, chunk = 2, cumsum = "native"'),
        ("glu", ""),
        ("relu", ""),
    ],
)
def test_causal_heads_do_not_mind_the_padding(op: str, attrs: str) -> None:
    graph = loads(MODEL.replace("  %z = unembed(%y)", f"  %w = {op}(%y) {{{attrs}}}\n  %z = unembed(%w)"))
    made = Pad().apply(graph)
    assert ops(made).count("pad") == ops(made).count("slice") == 1
    for length in (0, 1, 3, 4, 7):
        assert_same_function(graph, made, {"B": 2, "T": length})


def test_a_model_to_which_rows_are_added_from_outside_is_not_padded() -> None:
    text = MODEL.replace("(%ids: i32[B, T])", "(%ids: i32[B, T], %more: f32[B, T, 4])")
    text = text.replace("  %z = unembed(%y)", "  %w = add(%y, %more)\n  %z = unembed(%w)")
    graph = loads(text)
    assert_same_function(graph, Lowering("primitives").run(graph), {"B": 1, "T": 5})


def test_stacks_of_different_chunks_average_over_no_chunk_of_padding() -> None:
    """The whole model is padded to 6; a layer with chunks of 2 must not count the chunks that hold no token."""
    layer = '%{} = flash(%{}) {{chunk = {}, key_dim = 2, cumsum = "native", causal = false}}'
    body = "\n".join([layer.format("a", "x", 2), layer.format("y", "a", 3)])
    graph = loads(MODEL[: MODEL.index("  %y")] + body + MODEL[MODEL.index("  %z") :])
    for length in range(8):
        assert_same_function(graph, Lowering("primitives").run(graph), {"B": 1, "T": length})


def test_a_projection_is_split_where_its_weight_is_a_parameter() -> None:
    graph = Decompose(("flash",)).apply(loads(MODEL))
    made = SplitProjections().apply(graph)
    assert ops(made).count("dense") == ops(graph).count("dense") + 3  # the old one is dead, and canonicalise drops it
    given = loads(
        "model @m(%x: f32[2, 3], %w: f32[3, 4], %c: f32[4]) {\n %h = dense(%x, %w, %c)\n %a = silu(%h)\n"
        " %u, %v = split(%a) {axis = -1, sizes = [1, 3]}\n return %u, %v }"
    )
    assert SplitProjections().apply(given) == given


@pytest.mark.parametrize("name", ["float16", "bf16", "float64"])
def test_the_compute_type_follows_from_the_embedding_and_logits_stay_float32(name: str) -> None:
    made = SetDType(name).apply(loads(MODEL))
    (flash,) = (node for node in made.walk() if node.op == "flash")
    assert str(flash.output.type.dtype) in (name, name.replace("float", "f"))
    assert str(made.outputs[0].type.dtype) == "f32"
    assert_same_function(made, Lowering("primitives").run(made), {"B": 1, "T": 4})


def test_states_accumulate_in_float32_whatever_the_type() -> None:
    for cumsum in ("scan", "matmul", "native"):
        graph = SetDType("f16").apply(loads(MODEL.replace("native", cumsum)))
        made = Lowering("primitives").run(graph)
        kinds = {"scan": "scan", "matmul": "matmul", "native": "cumsum"}
        states = [node for node in made.walk() if node.op == kinds[cumsum]]
        assert any(str(value.type.dtype) == "f32" for node in states for value in node.outputs)


def test_an_unknown_compute_type_is_refused() -> None:
    with pytest.raises(FlashirError, match="unknown element type 'float8'"):
        SetDType("float8").apply(loads(MODEL))
