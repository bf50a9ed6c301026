"""What a small text may ask for: products are bounded where single numbers are, and the error says both."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, IRError, ParameterError, SettingError, TargetError
from flashir.ir import Builder, Dim, Graph, parse_size, symbol
from flashir.ir.limits import LARGEST_SIZE, LONGEST_NAME, MOST_ATOMS, MOST_AXES, MOST_ELEMENTS, MOST_LAYERS, MOST_STEPS
from flashir.ir.loops import layers, steps
from flashir.ir.parameter_count import parameter_count
from flashir.ir.parameter_names import parameters
from flashir.ir.types import DType, TensorType
from flashir.ir.verify import verify
from flashir.planning.workload import Workload

HEAD = "model @m(%ids: i32[B, T]) {\n %e = embed(%ids) {vocab = 5, dim = 8}\n"
TAIL = " %n = layer_norm(%x)\n %l = unembed(%n)\n return %l\n}\n"
SECONDS = 3.0  # of a machine that does other work too; what hangs takes minutes


def model(body: str) -> str:
    return HEAD + body + TAIL


def nested(*times: int, body: str = "%b = relu(%h)") -> str:
    for count in times[:0:-1]:
        body = f"%b = repeat(%h) {{times = {count}}} (%h) {{ {body}\n yield %b }}"
    return f" %x = repeat(%e) {{times = {times[0]}}} (%h) {{ {body}\n yield %b }}\n"


def scanned(length: int, step: str = "%t = add(%a, %i)") -> str:
    return (
        f" %c = constant() {{value = 1.0}}\n %b = broadcast(%c) {{shape = [{length}]}}\n"
        f" %s, %y = scan(%c, %b) (%a, %i) {{ {step}\n yield %t, %t }}\n %x = add(%e, %s)\n"
    )


def divided(levels: int) -> str:
    size = "T"
    for _ in range(levels):
        size = f"ceildiv(3*{size}, 2)"
    return size


def padded(size: str) -> str:
    return f" %p = pad(%e) {{axis = 1, after = {size}}}\n %x = slice(%p) {{axis = 1, stop = T}}\n"


MLP = "%b = mlp(%h) {expansion = 1}"
LONG = LONGEST_NAME + 1
BIG = LARGEST_SIZE
SUM = "(" + " + ".join(f"a{i}" for i in range(100)) + ")"
LAYERS = f"at most {MOST_LAYERS} are possible"
STEPS = f"at most {MOST_STEPS} are possible"
ELEMENTS = f"at most {MOST_ELEMENTS} elements"
ATOMS = f"at most {MOST_ATOMS} are possible"

REFUSED = [
    pytest.param(nested(MOST_LAYERS + 1), f"times must be at most {MOST_LAYERS}, got {MOST_LAYERS + 1}", id="times"),
    pytest.param(nested(10_000, 10_000, body=MLP), f"100000000 layers together, {LAYERS}", id="repeats"),
    pytest.param(nested(*[10_000] * 6), f"100000000 layers together, {LAYERS}", id="six-repeats"),
    pytest.param(nested(101, 100), f"10100 layers together, {LAYERS}", id="just-too-many-layers"),
    pytest.param(nested(6000) + nested(6000).replace("%x", "%z"), f"12000 layers together, {LAYERS}", id="siblings"),
    pytest.param(scanned(2**30), f"{2**30} steps together, {STEPS}", id="scan"),
    pytest.param(
        scanned(10_000, "%t = repeat(%a) {times = 10000} (%h) { %q = relu(%h)\n yield %q }"),
        f"100000000 steps together, {STEPS}",
        id="repeat-in-scan",
    ),
    pytest.param(
        " %x = repeat(%e) {times = 10000} (%h) {\n" + scanned(10_000).replace("%e", "%h") + " yield %x }\n",
        f"100000000 steps together, {STEPS}",
        id="scan-in-repeat",
    ),
    pytest.param(f" %x = mlp(%e) {{expansion = {BIG}}}\n", "expansion", id="expansion"),
    pytest.param(f" %x = flash(%e) {{key_dim = {BIG}}}\n", "a size must lie between", id="key-dim"),
    pytest.param(f" %p = embed(%ids) {{vocab = {BIG}, dim = {BIG}}}\n", f"{ELEMENTS}.*{BIG**2}", id="vocab-dim"),
    pytest.param(f" %p = param() {{name = \"w\", shape = [{BIG}, {BIG}]}}\n", f"{ELEMENTS}.*{BIG**2}", id="param"),
    pytest.param(f" %p = learned_position(%e) {{max_len = {BIG}}}\n %q = embed(%ids) {{vocab = {BIG}, dim = 8192}}\n",
                 f"{ELEMENTS}.*{BIG * 8192}", id="table"),
    pytest.param(f" %c = constant() {{value = 1.0}}\n %b = broadcast(%c) {{shape = [{BIG}, {BIG}, {BIG}]}}\n",
                 f"{ELEMENTS}.*{BIG**3}", id="broadcast"),
    pytest.param(f" %c = constant() {{value = 1.0}}\n %b = broadcast(%c) {{shape = [{', '.join(['1'] * 25)}]}}\n",
                 f"at most {MOST_AXES} axes.*has 25", id="axes"),
    pytest.param(f" %s, %c = sinusoid() {{length = {BIG}, half = {BIG}}}\n", ELEMENTS, id="sinusoid"),
    pytest.param(f" %i = iota() {{length = {BIG + 1}}}\n", f"length must be at most {BIG}, got {BIG + 1}", id="iota"),
    pytest.param(padded(str(BIG + 1)), f"after must be at most {BIG}", id="pad"),
    pytest.param(padded(f"{2**62}*T"), rf"between 0 and {BIG}, got {2**62 + 1}\*T", id="coefficient"),
    pytest.param(padded(f"{2**62}*{2**62}"), "too large a number", id="number"),
    pytest.param(padded("*".join(["9999999999999999999"] * 500)), "too large a number", id="long-number"),
    pytest.param(padded(divided(10)), f"symbols and divisions, {ATOMS}", id="divisions"),
    pytest.param(padded(divided(30)), f"symbols and divisions, {ATOMS}", id="thirty-divisions"),
    pytest.param(padded(f"{SUM}*{SUM}"), f"terms, {ATOMS}", id="product-of-sums"),
    pytest.param(padded("*".join(["T"] * 300)), f"symbols and divisions, {ATOMS}", id="power"),
    pytest.param(padded("S" * LONG), f"identifier of at most {LONGEST_NAME} characters", id="symbol"),
    pytest.param(f" %{'v' * LONG} = relu(%e)\n", f"at most {LONGEST_NAME} letters", id="value"),
    pytest.param(f' %x = mlp(%e) {{scope = "{"s" * LONG}"}}\n', f"scope has {LONG} characters", id="scope"),
    pytest.param(f' %x = mlp(%e) {{scope = "{"{i}" * LONG}"}}\n', "scope has", id="braces"),
    pytest.param(' %x = mlp(%e) {scope = "layers.{99999999999999999999*i}"}\n', "too large", id="factor"),
    pytest.param(' %x = mlp(%e) {scope = "l.{* *}"}\n', r"the name 'l.{\* \*}' is malformed: unexpected", id="no-size"),
    pytest.param(' %x = mlp(%e) {scope = "layers.{T}"}\n', "uses T, which is not the round", id="no-round"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "problem"), REFUSED)
def test_a_text_that_asks_for_too_much_is_refused_at_once(body: str, problem: str) -> None:
    text = model(body if "%x =" in body else body + " %x = relu(%e)\n")
    start = time.perf_counter()
    with pytest.raises((IRError, SettingError), match=problem) as refused:
        flashir.loads(text)
    assert time.perf_counter() - start < SECONDS
    assert len(str(refused.value)) < 20_000


@pytest.mark.parametrize(
    "body",
    [' %x = mlp(%e) {scope = "layers.{i}"}\n', nested(2, body='%b = mlp(%h) {scope = "layers.{j}"}')],
    ids=["no-repeat", "other-round"],
)
def test_a_part_of_a_model_is_read_and_not_planned(body: str) -> None:
    """A name may count in rounds of a repeat that stands elsewhere; what a model owns is not known then."""
    with pytest.raises(IRError, match="which is not the round of an enclosing repeat"):
        flashir.plan(flashir.loads(model(body)))


ALLOWED = [
    pytest.param(nested(100, 100), id="layers"),
    pytest.param(nested(MOST_LAYERS), id="times"),
    pytest.param(nested(MOST_LAYERS, body=MLP), id="times-of-blocks"),
    pytest.param(nested(0, 100), id="no-layers"),
    pytest.param(scanned(MOST_STEPS), id="steps"),
    pytest.param(f" %i = iota() {{length = {BIG}, dtype = f32}}\n %x = relu(%e)\n", id="size"),
    pytest.param(padded(divided(7)), id="divisions"),
    pytest.param(padded("*".join(["T"] * 32)), id="power"),
    pytest.param(f" %{'v' * LONGEST_NAME} = relu(%e)\n %x = relu(%e)\n", id="name"),
    pytest.param(nested(3, body='%b = mlp(%h) {scope = "layers.{999999999999*i*i*i}"}'), id="factor"),
]


@pytest.mark.parametrize("body", ALLOWED)
def test_what_is_within_the_bounds_is_read_and_planned(body: str) -> None:
    graph = flashir.loads(model(body))
    verify(graph)
    with suppress(TargetError):  # no memory holds it
        flashir.plan(graph, seq_len=16)


def test_thousands_of_inputs_and_symbols_are_read() -> None:
    inputs = ", ".join(f"%a{i}: f32[A{i}]" for i in range(2000))
    graph = flashir.loads(f"model @m({inputs}) {{\n %x = relu(%a0)\n return %x\n}}")
    assert len(graph.inputs) == 2000


def test_a_graph_that_no_builder_made_is_refused_too() -> None:
    b = Builder()
    x = b.input("x", "f32[2]")
    inner = b.subgraph()
    inner.repeat(inner.input("h", "f32[2]"), times=5000, body=lambda b, h: b.relu(h))
    graph = b.finish(b.repeat(x, times=2, body=lambda b, h: b.repeat(h, times=5000, body=lambda b, h: b.relu(h))))
    node = graph.nodes[0]
    more = Graph(graph.name, graph.inputs, (replace(node, attrs={"times": 3}),), graph.outputs)
    with pytest.raises(IRError, match="15000 layers together"):
        verify(more)


def test_layers_and_steps_are_multiplied() -> None:
    graph = flashir.loads(model(nested(3, 4) + scanned(5).replace("%x", "%z")))
    assert (layers(graph.nodes), steps(graph.nodes)) == (12, 17)


@pytest.mark.parametrize("text", ["T", "2*T + 4", "6*T*B + 9*ceildiv(T, 4)", "T + 1"])
def test_a_divisor_divides_a_size_whatever_its_symbols_are(text: str) -> None:
    size = parse_size(text)
    assert isinstance(size, Dim)
    assert size.divisor == {"T": 1, "2*T + 4": 2, "T + 1": 1}.get(text, 3)


def test_a_type_counts_the_factors_of_open_sizes() -> None:
    rows = symbol("B") * 2**30
    with pytest.raises(IRError, match=f"has {2**60} or more"):
        TensorType(DType.F32, (rows, 2**30))


def test_parameters_that_no_memory_holds_are_refused_before_they_are_drawn() -> None:
    graph = flashir.loads(f"model @m(%ids: i32[B, T]) {{\n %x = embed(%ids) {{vocab = {BIG}, dim = 8}}\n return %x\n}}")
    with pytest.raises(ParameterError, match=r"the parameters of @m take 32768\.00 GiB, this machine has"):
        flashir.init(graph)


def test_the_tokens_of_a_workload_are_bounded() -> None:
    with pytest.raises(SettingError, match=f"batch times seq_len must be at most {BIG} tokens, got {2**64}"):
        Workload(2**32, 2**32)
    assert Workload(2**20, 2**20).batch == 2**20


def test_a_megabyte_in_an_error_is_shortened() -> None:
    error = FlashirError("x" * 10**6, where="y" * 10**6)
    assert len(str(error)) < 10_000
    assert "x .. x" in error.problems[0]


@pytest.mark.parametrize(
    "body",
    [
        nested(7, body=MLP),
        nested(3, 4, body=MLP + "\n %b2 = mlp(%b) {expansion = 2}").replace("yield %b ", "yield %b2 ", 1),
        nested(5, body='%b = mlp(%h) {expansion = 1, scope = "layers.0"}'),
        nested(5, body='%b = mlp(%h) {expansion = 1, scope = "layers.{i*i}"}'),
        nested(5, body='%b = mlp(%h) {expansion = 1, scope = "a{i}0.{i}"}'),
        ' %y = mlp(%e) {expansion = 1, scope = "layers.3"}\n' + nested(5, body=MLP).replace("%e", "%y"),
        nested(5, 2, body='%b = mlp(%h) {expansion = 1, scope = "x.{2*i + j}.{i}"}'),
        nested(0, body=MLP),
        nested(4, 3, body='%b = mlp(%h) {expansion = 1, scope = "layers.{i + j}"}'),
    ],
)
def test_parameters_are_counted_as_they_are_named(body: str) -> None:
    graph = flashir.loads(model(body))
    assert parameter_count(graph) == sum(int(np.prod(spec.shape)) for spec in parameters(graph).values())


def test_ten_thousand_layers_are_counted_without_their_names() -> None:
    graph = flashir.loads(model(nested(MOST_LAYERS, body=MLP)))
    start = time.perf_counter()
    assert parameter_count(graph) > 10**6
    assert time.perf_counter() - start < SECONDS
