"""The builder: types are inferred on insertion, numbers become constants, names are kept unique."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flashir import Builder, DType, FlashirError, TensorType, dumps, loads
from flashir.ir import symbol
from flashir.ir.types import broadcast_shapes


def test_every_op_is_a_method_that_returns_its_first_result() -> None:
    b = Builder()
    x = b.input("x", "f32[B, T, 8]")
    assert b.relu(x).type == x.type
    assert b.transpose(x, perm=(0, 2, 1)).type == TensorType(DType.F32, (symbol("B"), 8, symbol("T")))
    left, right = b.results("split", x, axis=-1, sizes=(2, 6))
    assert [left.type.shape[-1], right.type.shape[-1]] == [2, 6]


def test_what_is_no_op_is_no_method() -> None:
    with pytest.raises(FlashirError, match="unknown op 'reluu'; did you mean 'relu'"):
        Builder().reluu  # noqa: B018


def test_numbers_take_the_element_type_of_the_first_operand_that_is_no_bool() -> None:
    b = Builder()
    x, c = b.input("x", "f16[2]"), b.input("c", "bool[2]")
    assert b.add(x, 1).type.dtype is DType.F16
    assert b.sub(2.0, x).type.dtype is DType.F16
    assert b.select(c, x, 0.0).type.dtype is DType.F16
    assert b.select(c, 1.0, 0.0).type.dtype is DType.F32


def test_numbers_of_numpy_print_as_those_of_python() -> None:
    b = Builder()
    x = b.input("x", "f32[4, 4]")
    y = b.mul(x, np.float64(0.1))
    y = b.add(y, np.float32(0.5))
    y = b.reduce_sum(y, axes=[np.int64(1)], keepdims=np.bool_(True))
    graph = b.finish(b.reshape(y, shape=np.arange(4, 5).tolist()))
    assert "np." not in dumps(graph)
    assert loads(dumps(graph)) == graph


def test_names_given_are_kept_and_made_unique() -> None:
    b = Builder()
    x = b.input("x", "f32[2]")
    names = [
        b.insert("relu", (x,), names=["x"])[0].name,
        b.relu(x).name,
        b.relu(x).name,
        b.input("relu_1", "f32[]").name,
    ]
    assert names == ["x_0", "relu_0", "relu_1", "relu_1_0"]


@pytest.mark.parametrize("name", ["", "a b", "%x", "é", "a-b", ".x", "x\n"])
def test_a_value_must_have_a_name_that_the_text_can_hold(name: str) -> None:
    with pytest.raises(FlashirError, match="a value must be named by"):
        Builder().input(name, "f32[2]")


@pytest.mark.parametrize("name", ["", "a b", "@m", "1m", "m\n", "m}"])
def test_a_model_must_have_a_name_that_the_text_can_hold(name: str) -> None:
    with pytest.raises(FlashirError, match="a model must be named by"):
        Builder(name)


def test_an_error_names_the_op_and_its_operands() -> None:
    b = Builder()
    x, y = b.input("x", "f32[2, 3]"), b.input("y", "f32[4]")
    with pytest.raises(FlashirError, match=r"in add\(%x: f32\[2, 3\], %y: f32\[4\]\)"):
        b.add(x, y)


def test_a_failed_insertion_leaves_nothing_behind() -> None:
    b = Builder()
    x = b.input("x", "f32[2, 3]")
    with pytest.raises(FlashirError):
        b.matmul(x, x)
    assert not b.nodes
    assert b.relu(x).name == "relu_0"


def test_unembed_takes_the_vocabulary_of_the_embedding_before_it() -> None:
    b = Builder()
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=7, dim=4)
    assert b.unembed(x).type.shape[-1] == 7
    assert b.unembed(x, vocab=9, tied=False).type.shape[-1] == 9


def test_producers_are_known() -> None:
    b = Builder()
    x = b.input("x", "f32[2]")
    y = b.relu(x)
    node = b.producer(y)
    assert node is not None
    assert node.op == "relu"
    assert b.producer(x) is None
    assert b.finish(y).producers() == {y: node}


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        (((2, 3), (3,)), (2, 3)),
        (((2, 1, 4), (3, 1)), (2, 3, 4)),
        (((), ()), ()),
        (((0,), (1,)), (0,)),
        (((symbol("T"), 1), (1, 4)), (symbol("T"), 4)),
    ],
)
def test_shapes_broadcast_as_in_numpy(shapes: tuple[tuple[int, ...], ...], result: tuple[int, ...]) -> None:
    assert broadcast_shapes(*shapes) == result


def test_a_type_knows_its_size() -> None:
    t = TensorType(DType.BF16, (2, 0, 3)), TensorType(DType.F64, (2, 3)), TensorType(DType.BOOL, ())
    assert [(x.rank, x.count, x.bytes) for x in t] == [(3, 0, 0), (2, 6, 48), (0, 1, 1)]
    with pytest.raises(FlashirError, match="still has symbolic sizes"):
        TensorType(DType.F32, (symbol("T"),)).count  # noqa: B018
    with pytest.raises(FlashirError, match="between 0 and"):
        TensorType(DType.F32, (2**41,))


def test_element_types_have_short_and_long_names() -> None:
    assert DType.named("f16") is DType.named("float16") is DType.F16
    with pytest.raises(FlashirError, match="unknown element type 'float17'"):
        DType.named("float17")


def test_what_is_no_value_of_the_builder_is_refused() -> None:
    b, other = Builder("m"), Builder("other")
    x, z = b.input("x", "f32[B, 4]"), other.input("z", "f32[B, 4]")
    wrong: list[tuple[Any, str]] = [
        (lambda: b.add(x, "y"), "operand 1 of add must be a value of this builder, got 'y'"),
        (lambda: b.relu(z), "operand 0 of relu, %z: .* was made by another builder"),
        (lambda: b.finish(z), "operand 0 of finish, %z: .* was made by another builder"),
        (lambda: b.repeat("x", times=2, body=lambda b, h: h), "operand 0 of repeat must be a value"),
        (lambda: b.repeat(x, times=2, body=None), "the body of repeat must be a function"),
        (lambda: b.repeat(x, times=2, body=lambda b, h: None), "must return a value"),
        (lambda: b.repeat(x, times="3", body=lambda b, h: b.relu(h)), "times must be int, got '3'"),
        (lambda: b.input("w", 3), "type_ must be a TensorType or a string, got 3"),
        (lambda: b.input(3, "f32[B]"), "name must be a string, got 3"),
        (lambda: Builder(3), "name must be a string, got 3"),
    ]
    for act, problem in wrong:
        with pytest.raises(FlashirError, match=problem):
            act()
