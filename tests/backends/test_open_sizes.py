"""A size that is open stays open wherever it stands: in types and attributes, on every backend, at every level."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Trainable
from flashir.backends.registry import backend_names, backend_of
from flashir.backends.training import AdamW, Batch
from flashir.cli.stages import STAGES, stages
from flashir.errors import FlashirError, InputError, IRError
from flashir.ir import Dim, DType, Graph, loads
from flashir.models.parameters import unit
from flashir.ops import OPS
from flashir.planning.workload import Workload
from flashir.reference.compare import TOLERANCE, relative_error, sample_inputs
from flashir.reference.inputs import vocabulary
from flashir.testing import OWN, SMALL
from flashir.transforms import check_sizes, specialise
from tests.backends.support import at_hand
from tests.cover import GRID

HERE = tuple(name for name in backend_names() if at_hand(name))

NAMED: dict[str, str] = {
    "reshape.shape": "%y = reshape(%x) {shape = [B, T, 2, 2]}",
    "broadcast.shape": "%c = constant() {value = 2.0}\n %b = broadcast(%c) {shape = [T, 4]}\n %y = mul(%x, %b)",
    "pad.before": "%y = pad(%x) {axis = 1, before = T}",
    "pad.after": "%y = pad(%x) {axis = 1, after = 4*ceildiv(T, 4) - T}",
    "slice.start": "%p = pad(%x) {axis = 1, after = 3}\n %y = slice(%p) {axis = 1, start = T, stop = T + 3}",
    "slice.stop": "%p = pad(%x) {axis = 1, after = 3}\n %y = slice(%p) {axis = 1, stop = T}",
    "split.sizes": "%p = concat(%x, %x) {axis = 1}\n %y, %z = split(%p) {axis = 1, sizes = [T, T]}",
    "sinusoid.length": "%y, %c = sinusoid() {length = T, half = 2}",
    "rel_pos_bias.n": '%w = param() {name = "w", shape = [41]}\n %y = rel_pos_bias(%w) {n = T}',
    "rope_rel_pos_bias.n": '%a = param() {name = "a", shape = [4]}\n %y = rope_rel_pos_bias(%a, %a) {n = T}',
    "bucket_rel_pos_bias.n": (
        '%w = param() {name = "w", shape = [8]}\n %y = bucket_rel_pos_bias(%w) {n = T, causal = true}'
    ),
    "summary_weights.tokens": (
        "%q = reshape(%x) {shape = [B, T, 1, 4]}\n %m = constant() {value = 0.0}\n"
        " %k = broadcast(%m) {shape = [T, T]}\n %y = summary_weights(%q, %q, %k) {causal = true, tokens = T}"
    ),
    "flash.valid": '%y = flash(%x) {key_dim = 2, chunk = 4, cumsum = "matmul", valid = T}',
    "gau.valid": '%y = gau(%x) {key_dim = 2, max_len = 64, qk_scale = "length", valid = T}',
    "iota.length": "%i = iota() {length = T, dtype = f32}\n %c = reshape(%i) {shape = [T, 1]}\n %y = add(%x, %c)",
    "size.value": "%s = size() {value = B*T, dtype = f32}\n %y = mul(%x, %s)",
}
"""A graph that names T, for each attribute that may hold a size."""

LENGTHS = (0, 1, 3, 8)
INSIDE = {
    "repeat": "%y = repeat(%x) {times = 2} (%h) {{\n {body}\n %g = relu(%h)\n yield %g }}",
    "scan": "%s, %y = scan(%x, %x) {axis = 2} (%a, %i) {{\n {body}\n yield %a, %i }}",
}


def graph(body: str) -> Graph:
    return loads(f"model @m(%x: f32[B, T, 4]) {{\n {body}\n return %y\n}}")


def holds_sizes() -> set[str]:
    every = ((record.name, name, spec) for record in OPS.values() for name, spec in record.attrs.items())
    return {f"{op}.{name}" for op, name, spec in every if Dim in spec.kind or Dim in spec.items}


def test_every_attribute_that_may_hold_a_size_is_tried() -> None:
    assert set(NAMED) == holds_sizes()


@pytest.mark.parametrize("attr", NAMED)
def test_a_graph_with_a_size_is_the_graph_with_its_number(attr: str) -> None:
    model = graph(NAMED[attr])
    params = unit(model)
    for length in LENGTHS:
        x = np.random.default_rng(length).standard_normal((2, length, 4))
        text = re.sub(r"\bT\b", str(length), re.sub(r"\bB\b", "2", NAMED[attr]))
        text = re.sub(r"4\*ceildiv\((\d+), 4\) - \d+", lambda m: str(-int(m[1]) % 4), text)
        closed = loads(f"model @m(%x: f32[2, {length}, 4]) {{\n {text}\n return %y\n}}")
        bound = specialise(model, {"B": 2, "T": length})
        assert bound == closed
        for got, wanted in zip(interpret(model, params, x), interpret(closed, params, x), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow_where(name="jax")
@pytest.mark.slow_where(name="openvino")
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("attr", NAMED)
def test_a_size_in_an_attribute_runs_on_every_backend(name: str, attr: str) -> None:
    model = graph(NAMED[attr])
    params = unit(model)
    run = flashir.compile(model, f"{name}:cpu", params)
    for length in LENGTHS if name != "jax" else LENGTHS[-2:]:
        x = np.random.default_rng(length).standard_normal((2, length, 4))
        wanted = interpret(run.model, params, x)[0]
        assert relative_error(run(x), wanted) < TOLERANCE[DType.F32], length


@pytest.mark.parametrize("loop", INSIDE)
def test_a_size_stays_open_in_the_body_of_a_loop(loop: str) -> None:
    body = "%z = iota() {length = T}"
    if loop == "repeat":
        body = "%c = constant() {value = 1.0}\n %b = broadcast(%c) {shape = [T, 1]}\n %z = add(%h, %b)"
    text = INSIDE[loop].replace("{{", "{").replace("}}", "}").replace("{body}", body)
    if loop == "scan":
        text = "%c = slice(%x) {axis = 2, stop = 1}\n %k = reshape(%c) {shape = [B, T]}\n" + text.replace(
            "scan(%x, %x)", "scan(%k, %x)"
        )
    model = graph(text)
    x = np.ones((2, 3, 4))
    assert not any(
        isinstance(value, Dim) for node in specialise(model, {"B": 2, "T": 3}).walk() for value in node.attrs.values()
    )
    run = flashir.compile(model, "onnx:cpu", {})
    assert relative_error(run(x), interpret(model, {}, x)[0]) < TOLERANCE[DType.F32]


def test_sizes_that_an_op_cannot_do_are_refused_with_the_sizes() -> None:
    model = graph("%y = pad(%x) {axis = 1, after = 5 - T}")
    assert interpret(model, {}, np.ones((1, 3, 4)))[0].shape == (1, 5, 4)
    with pytest.raises(InputError, match=r"with B = 1, T = 7: .*after must be at least 0, got -2"):
        interpret(model, {}, np.ones((1, 7, 4)))
    with pytest.raises(InputError, match="after must be at least 0, got -2"):
        flashir.compile(model)(np.ones((1, 7, 4)))


def test_a_size_that_no_input_tells_is_refused_by_the_first_door() -> None:
    model = graph("%i = iota() {length = U}\n %y = relu(%x)")
    problem = "length = U of iota has the size U, and no input has an axis that is U alone"
    for door in (check_sizes, flashir.plan, flashir.compile, lambda g: interpret(g, {}, np.ones((1, 2, 4)))):
        with pytest.raises((IRError, InputError), match=problem):
            door(model)


def test_a_value_without_open_sizes_is_as_large_as_memory_allows() -> None:
    model = graph("%p = pad(%x) {axis = 1, after = 1099511627000}\n %y = slice(%p) {axis = 1, stop = T}")
    with pytest.raises(InputError, match=r"the numbers of %p: .* in float64 take .* GiB, this machine has"):
        interpret(model, {}, np.ones((1, 2, 4)))


HEADS = """
model @heads(%ids: i32[B, T]) {
  %x = embed(%ids) {vocab = 11, dim = 8}
  %r = reshape(%x) {shape = [B, T, 2, 4]}
  %h = transpose(%r) {perm = [0, 2, 1, 3]}
  %a = softmax_attention(%h, %h, %h) {causal = true, scale = 0.5}
  %t = transpose(%a) {perm = [0, 2, 1, 3]}
  %y = reshape(%t) {shape = [B, T, 8]}
  %f = flash(%y) {key_dim = 4, chunk = 4}
  %l = unembed(%f)
  return %l
}
"""


def test_a_reshape_with_open_sizes_continues_token_by_token() -> None:
    model = loads(HEADS)
    params = unit(model)
    decoder = flashir.decoder(model, "onnx:cpu", params, max_len=32)
    ids = np.random.default_rng(0).integers(0, 11, 9)
    wanted = interpret(decoder.model, params, ids[None])[0][0]
    state, logits = decoder.start([ids[:5]])
    found = [logits[0]]
    for token in ids[5:]:
        state, logits = decoder.extend(state, [token])
        found.append(logits[0])
    assert relative_error(np.stack(found), wanted[4:]) < TOLERANCE[DType.F32]


TOKENS = {
    "gather": '%w = param() {name = "w", shape = [7, 4]}\n %y = gather(%w, %ids)',
    "cast": '%w = param() {name = "w", shape = [7, 4]}\n %c = cast(%ids) {dtype = i64}\n %y = gather(%w, %c)',
    "pad": '%w = param() {name = "w", shape = [7, 4]}\n %c = pad(%ids) {axis = 1, after = 3}\n %y = gather(%w, %c)',
    "reshape": '%w = param() {name = "w", shape = [7, 4]}\n %c = reshape(%ids) {shape = [B*T]}\n %y = gather(%w, %c)',
    "repeat": (
        "%y = embed(%ids) {vocab = 9, dim = 4}\n"
        ' %z = repeat(%y, %ids) {times = 2} (%h, %i) {\n %w = param() {name = "layers.{i}.w", shape = [7, 4]}\n'
        " %g = gather(%w, %i)\n %s = add(%h, %g)\n yield %s }"
    ),
}


@pytest.mark.parametrize("way", TOKENS)
def test_tokens_are_followed_to_the_table(way: str) -> None:
    model = loads(f"model @m(%ids: i32[B, T]) {{\n {TOKENS[way]}\n return %y\n}}")
    assert vocabulary(model, model.inputs[0]) == 7
    with pytest.raises(InputError, match=r"1 token id outside 0 \.\. 6"):
        flashir.compile(model)(np.array([[3, 7]]))


def test_tokens_that_are_clipped_have_a_vocabulary_and_no_range() -> None:
    model = loads(
        'model @m(%ids: i32[B, T]) {\n %w = param() {name = "w", shape = [7, 4]}\n'
        " %m = constant() {value = 6, dtype = i32}\n %z = constant() {value = 0, dtype = i32}\n"
        " %a = minimum(%ids, %m)\n %c = maximum(%a, %z)\n %y = gather(%w, %c)\n return %y\n}"
    )
    assert vocabulary(model, model.inputs[0]) == 7
    assert flashir.compile(model)(np.array([[3, 70, -1]])).shape == (1, 3, 4)


def test_what_is_computed_from_an_input_is_no_token() -> None:
    model = loads(
        'model @m(%n: i32[B, T]) {\n %w = param() {name = "w", shape = [7, 4]}\n %c = floor_div(%n) {divisor = 9}\n'
        " %y = gather(%w, %c)\n return %y\n}"
    )
    assert vocabulary(model, model.inputs[0]) is None


def zoo() -> list[Any]:
    """Every model at every stage on every backend; a few of them are quick."""
    cases = []
    for name in HERE:
        for system in OWN:
            for stage in STAGES:
                quick = name == "onnx" and system == "flash" and stage != "blocks"
                marks = () if quick else pytest.mark.slow if name == "onnx" else GRID
                cases.append(pytest.param(name, system, stage, marks=marks, id=f"{name}-{system}-{stage}"))
    return cases


@pytest.mark.parametrize(("name", "system", "stage"), zoo())
def test_what_show_prints_is_read_back_and_is_the_model(name: str, system: str, stage: str, tmp_path: Any) -> None:
    """Planned, run, exported and trained as the model that it was printed from."""
    target = f"{name}:cpu"
    settings = {**SMALL, **OWN[system]}
    model = flashir.plan(flashir.model(system, **settings), target, seq_len=64).graph
    printed = loads(flashir.dumps(stages(model, target, {}, 1, 64).at(stage)))
    params = unit(model)
    assert vocabulary(printed, printed.inputs[0]) == SMALL["vocab"]
    run = flashir.compile(printed, target, params)
    for batch, length in ((1, 0), (2, 1), (2, 35)) if name != "jax" else ((2, 35),):
        ids = sample_inputs(model, Workload(2, max(length, 1)).sizes(model))[0][:batch, :length]
        wanted = interpret(model, params, ids)[0]
        assert relative_error(interpret(printed, params, ids)[0], wanted) < 1e-9
        assert relative_error(run(ids), wanted) < TOLERANCE[DType.F32]
    try:
        flashir.export(printed, tmp_path, target, params)
    except FlashirError as error:
        assert "loop over chunks" in str(error)  # noqa: PT017  # PyTorch exports a loop for the sizes that it saw
        assert (name, any(node.op == "scan" for node in printed.walk())) == ("torch", True)
    found = backend_of(target)
    if isinstance(found, Trainable):
        trainer = found.trainer(Lowering.of(target).run(run.model), params, "cpu", AdamW())
        score = trainer.score(Batch((ids,), ids))
        loss, labels = score.nats, score.labels
        logits = wanted - wanted.max(-1, keepdims=True)
        chances = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), ids[..., None], -1)
        assert loss / labels == pytest.approx(-chances.mean(), rel=1e-4)
