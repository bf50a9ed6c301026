"""Bad text is refused at once, with the line and column, what is wrong and what was wanted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import flashir
from flashir import FlashirError, load, loads
from flashir.ir import parse_size, parse_type
from flashir.ir.text.grammar import DEEPEST

HEAD = "model @m(%x: f32[B, T]) -> f32[B, T] {\n"

PROBLEMS = [
    # malformed
    ("", "1:1", "the text ends too early; wanted 'model'"),
    (HEAD + "  %y = relu(%x)\n", "3:1", "the text ends too early; wanted .*'return' or '{' or a value such as %x"),
    (HEAD + "}", "2:1", "unexpected '}'; wanted 'return' or a value such as %x"),
    (HEAD + "  %y = relu(%x) $\n return %y }", "2:17", r"unexpected character '\$'"),
    (HEAD + "  %y = relu %x)\n return %y }", "2:13", r"unexpected '%x'; wanted '\('"),
    (HEAD + "  return %x } model", "2:15", "unexpected 'model'; wanted the end of the text"),
    (HEAD + '  %y = einsum(%x, %x) {equation = "\\q"}\n return %y }', "2:35", "malformed: .*invalid escape"),
    (HEAD + '  %y = einsum(%x, %x) {equation = "ab}\n return %y }', "2:35", "unexpected character"),
    ("model m(%x: f32[T]) { return %x }", "1:7", "wanted a name such as @model"),
    ("model @m(%x: f32[T]) { return %x }\0", "1:35", "unexpected character"),
    # dangling, redefined, in the wrong order, cyclic
    (HEAD + "  %y = relu(%z)\n return %y }", "2:13", "%z is not defined here"),
    (HEAD + "  return %z }", "2:10", "%z is not defined here"),
    (HEAD + "  %x = relu(%x)\n return %x }", "2:3", "%x is defined twice"),
    (HEAD + "  %a, %a = split(%x) {axis = 0, sizes = [B, 0]}\n return %a }", "2:7", "%a is defined twice"),
    ("model @m(%x: f32[T], %x: f32[T]) { return %x }", "1:22", "%x is defined twice"),
    (HEAD + "  %a = relu(%b)\n  %b = relu(%x)\n return %a }", "2:13", "%b is used before it is defined; move"),
    (HEAD + "  %a = relu(%b)\n  %b = relu(%a)\n return %a }", "2:13", "depend on themselves: %b -> %a -> %b"),
    (HEAD + "  %a = relu(%a)\n return %a }", "2:13", "depend on themselves: %a -> %a"),
    (HEAD + "  %a = repeat(%x) {times = 1} (%h) {\n yield %x }\n return %a }", "3:8", "%x is not defined here"),
    # ill-typed
    (HEAD + "  %a = logical_and(%x, %x)\n return %a }", "2:8", r"operands must be bool, got f32\[B, T\]"),
    (HEAD + "  %a = relu(%x) : f32[B]\n return %a }", "2:8", r"result is f32\[B, T\], the text says f32\[B\]"),
    ("model @m(%x: f32[B, T]) -> f32[B] {\n return %x }", "1:7", r"returns f32\[B, T\], its head says f32\[B\]"),
    (HEAD + "  %a, %b = relu(%x)\n return %a }", "2:12", "relu has 1 results, 2 are named"),
    (HEAD + "  %a = relu(%x, %x)\n return %a }", "2:8", "relu takes 1 operands"),
    # ops, operands, attributes, bodies
    (HEAD + "  %a = relo(%x)\n return %a }", "2:8", "unknown op 'relo'; did you mean 'relu'"),
    (HEAD + "  %a = cumsum(%x) {axs = 1}\n return %a }", "2:8", "no attribute 'axs'; did you mean 'axis'"),
    (HEAD + "  %a = cumsum(%x) {axis = 1, axis = 1}\n return %a }", "2:8", "'axis' is given twice"),
    (HEAD + "  %a = cumsum(%x) {axis = 7}\n return %a }", "2:8", "axis 7 is out of range"),
    (HEAD + "  %a = relu(z = %x)\n return %a }", "2:8", r"has no operand named 'z' here; it takes \(x\)"),
    (HEAD + "  %a = repeat(%x) {times = 1}\n return %a }", "2:8", "repeat needs a body"),
    (HEAD + "  %a = relu(%x) (%h) { yield %h }\n return %a }", "2:8", "relu takes no body"),
    (HEAD + "  %a = repeat(%x) {times = 1} (%h) {\n  %b = relo(%h)\n yield %b }\n return %a }", "3:8", "'relo'"),
    # types and numbers
    ("model @m(%x: f31[T]) { return %x }", "1:19", "unknown element type 'f31'; did you mean 'f32'"),
    ("model @m(%x: f32[-3]) { return %x }", "1:20", "between 0 and 1099511627776, got -3"),
    ("model @m(%x: f32[99999999999999999]) { return %x }", "1:35", "between 0"),
    ("model @m(%x: f32[" + "9" * 100000 + "]) { return %x }", "1:18", "number 99999999999999999999.. is too large"),
    (HEAD + "  %a = pad(%x) {axis = 1, after = 9999999999999999999}\n return %a }", "2:8", "after must be at most"),
    ("model @m(%x: f32[ceildiv(T, 0)]) { return %x }", "1:30", "positive divisor, got 0"),
    ("model @m(%x: f32[ceildiv(T, T)]) { return %x }", "1:30", "known divisor, got T"),
    ("model @m(%x: f32[true]) { return %x }", "1:22", "'true'"),
    ("model @m(%x: f32[2.5]) { return %x }", "1:19", "unexpected character '.'"),
    (HEAD + "  %a = constant() {value = nan}\n return %a }", "2:28", "'nan'"),
    (HEAD + '  %a = reshape(%x) {shape = ["a", 2.0]}\n return %a }', "2:8", "must hold int or Dim alone"),
]


@pytest.mark.parametrize(("text", "place", "problem"), PROBLEMS)
def test_it_is_refused_where_it_stands(text: str, place: str, problem: str) -> None:
    with pytest.raises(FlashirError, match=problem) as refused:
        loads(text)
    assert refused.value.where.startswith(place)
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(("text", "place", "problem"), PROBLEMS[:12])
def test_the_name_of_the_source_comes_first(text: str, place: str, problem: str) -> None:
    with pytest.raises(FlashirError) as refused:
        loads(text, "model.fir")
    assert refused.value.message.startswith(f"model.fir:{place}")


def test_the_line_is_shown_with_a_mark_below_the_fault() -> None:
    with pytest.raises(FlashirError) as refused:
        loads(HEAD + "  %y = relu %x)\n return %y }")
    line, mark = refused.value.message.split("\n")[-2:]
    assert line[mark.index("^") :].startswith("%x)")


def nested_regions(count: int) -> str:
    return HEAD + "%y = repeat(%x) {times = 1} (%x) {\n" * count + "yield %x }\n" * count + "return %y }"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("(" * 1_000_000, id="brackets"),
        pytest.param("model @m(%x: f32[" + "(" * 1_000_000 + "T" + ")" * 1_000_000 + "]) { return %x }", id="sizes"),
        pytest.param(HEAD + "%y = split(%x) {axis = 0, sizes = " + "[" * 1_000_000, id="lists"),
        pytest.param("model @m(%x: f32[" + "ceildiv(" * 1_000_000, id="divisions"),
        pytest.param(nested_regions(1_000_000), id="regions"),
    ],
)
def test_a_million_levels_are_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FlashirError, match=f"nested deeper than {DEEPEST} levels"):
        loads(text)
    assert time.perf_counter() - start < 2


def test_nesting_within_reason_is_read() -> None:
    assert len(list(loads(nested_regions(5)).walk())) == 5
    assert parse_size("(" * 60 + "T" + ")" * 60) == parse_size("T")


def test_brackets_in_strings_and_comments_do_not_nest() -> None:
    text = HEAD + "  // " + "(" * 1000 + "\n  return %x }"
    assert not loads(text).nodes
    with pytest.raises(FlashirError, match="must look like"):
        loads(HEAD + f'  %a = einsum(%x, %x) {{equation = "{"(" * 1000}"}}\n return %a }}')


@pytest.mark.parametrize("text", ["model @m(%x: f32[" + "*".join(["(A + B + C + D)"] * 60) + "]) { return %x }"])
def test_a_size_that_would_fill_the_memory_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FlashirError, match="too long a polynomial"):
        loads(text)
    assert time.perf_counter() - start < 2


def test_huge_text_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.ir.text.grammar.LONGEST_TEXT", 1000)
    with pytest.raises(FlashirError, match="the text has 1001 characters, more than 1000"):
        loads(" " * 1001)


def test_long_text_within_reason_is_read() -> None:
    lines = "".join(f"  %v{i + 1} = relu(%v{i})\n" for i in range(2000))
    graph = loads(f"model @m(%v0: f32[2]) {{\n{lines}  return %v2000 }}")
    assert len(graph.nodes) == 2000


@pytest.mark.parametrize("text", ["", "f32", "f32[", "f32[2", "f32[2,]", "f32[2]]", "[2]", "f32[2] f32[2]", "f32(2)"])
def test_a_malformed_type_is_refused(text: str) -> None:
    with pytest.raises(FlashirError):
        parse_type(text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.fir"
    file.write_bytes(b"model @m(%x: f32[\xff])")
    with pytest.raises(FlashirError, match="it is not UTF-8 text") as refused:
        load(file)
    assert str(file) in refused.value.message


@pytest.mark.parametrize("path", ["absent.fir", "."])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(FlashirError, match="cannot read the model"):
        load(tmp_path / path)


def test_a_file_says_its_name_in_errors_and_may_have_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "model.fir"
    file.write_bytes(HEAD.encode() + b"  %y = relu(%z)\r\n return %y }")
    with pytest.raises(FlashirError, match=r"model\.fir:2:13: %z is not defined here"):
        flashir.load(file)
    file.write_bytes(file.read_bytes().replace(b"%z", b"%x"))
    assert flashir.load(file).nodes[0].op == "relu"
