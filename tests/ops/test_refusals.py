"""What an op refuses, and that it says the name, what was wanted and what it got."""

from __future__ import annotations

import pytest

from flashir import Builder, FlashirError, loads
from flashir.ir import DType

CORE = ["f32[4, 4]", "f32[4, 4]", "f32[3, 3]", "f32[4, 2]", "f32[4, 2]"]
CHUNKS = ["f32[2, 4, 4]"] * 3
GLOBAL = ["f32[2, 4, 4]", None, None, None, "f32[2, 4, 4]", "f32[2, 4, 4]"]
CELLS = ["f32[2, 3, 4, 5]"] * 3
REFUSED = [
    # elementwise
    ("add", ["f32[2]", "f16[2]"], {}, "one element type, got f32 and f16"),
    ("add", ["bool[2]", "bool[2]"], {}, "must be numbers, got bool"),
    ("less", ["bool[2]", "bool[2]"], {}, "must be numbers"),
    ("add", ["f32[2, 3]", "f32[4]"], {}, r"\[2, 3\] and \[4\] do not broadcast"),
    ("add", ["f32[T]", "f32[B]"], {}, "do not broadcast"),
    ("div", ["i32[2]", "i32[2]"], {}, "floating-point"),
    ("exp", ["i32[2]"], {}, "floating-point"),
    ("logical_and", ["f32[2]", "f32[2]"], {}, "must be bool"),
    ("select", ["f32[2]", "f32[2]", "f32[2]"], {}, "the condition must be bool"),
    ("constant", [], {"value": float("nan")}, "got nan"),
    ("log", ["i32[2]"], {}, "floating-point"),
    ("prelu", ["f32[2, 3]", "f32[2]"], {}, r"the slope must be f32\[\], or one for each channel"),
    ("literal", [], {"values": (1.0, 2.0), "shape": (3,)}, r"\[3\] has 3 elements, got 2 values"),
    ("literal", [], {"values": (), "shape": (0,)}, "of 1 to 1024"),
    ("literal", [], {"values": (float("inf"),), "shape": (1,)}, "must be finite"),
    ("literal", [], {"values": (1.0,), "shape": (1,), "dtype": DType.I32}, "floating-point"),
    ("literal", [], {"values": ("a",), "shape": (1,)}, "must hold float or int alone"),
    ("group_normalization", ["f32[2, 3, 4]"], {"groups": 3}, "groups must divide the 4 channels"),
    ("group_normalization", ["f32[2, 3, 4]", "f32[3]"], {"groups": 2}, r"must be f32\[4\]"),
    ("conv1d", ["f32[2, 5, 4]", "f32[3, 4, 6]"], {"groups": 2}, r"weight must be \[k, c / groups, o\]"),
    ("conv1d", ["f32[2, 5, 4]", "f32[9, 4, 6]"], {}, "shorter than the kernel"),
    ("conv1d", ["f32[2, 5, 4]", "f32[3, 4, 6]"], {"pads": (1,)}, "two numbers from 0"),
    ("conv1d", ["f32[2, 5, 4]", "f32[0, 4, 6]"], {}, "at least one tap"),
    ("conv_transpose1d", ["f32[2, 5, 4]", "f32[3, 3, 6]"], {}, r"weight must be \[k, c, o\]"),
    # shape
    ("reshape", ["f32[2, 3]"], {"shape": (4,)}, r"\[4\] has 4 elements, the operand f32\[2, 3\] has 6"),
    ("reshape", ["f32[2, 3]"], {"shape": ("a", 2.0)}, "shape must hold int or Dim alone"),
    ("reshape", ["f32[2, 3]"], {"shape": (-2, -3)}, "between 0"),
    ("transpose", ["f32[2, 3]"], {"perm": (0, 0)}, "each axis .* once"),
    ("broadcast", ["f32[2]"], {"shape": (3,)}, "do not broadcast"),
    ("pad", ["f32[2]"], {"axis": 1}, "axis 1 is out of range"),
    ("pad", ["f32[2]"], {"axis": 0, "after": -1}, "after must be at least 0"),
    ("slice", ["f32[4]"], {"axis": 0, "start": 3, "stop": 2}, "does not lie in"),
    ("slice", ["f32[4]"], {"axis": 0, "stop": 5}, "does not lie in"),
    ("split", ["f32[4]"], {"axis": 0, "sizes": (1, 2)}, "must add up to 4"),
    ("split", ["f32[4]"], {"axis": 0, "sizes": ()}, "must add up to 4"),
    ("concat", ["f32[2]", "f32[2, 2]"], {"axis": 0}, "must agree"),
    ("concat", ["f32[2]", "i32[2]"], {"axis": 0}, "must agree"),
    ("concat", [], {"axis": 0}, "at least one operand"),
    ("gather", ["f32[2]", "f32[2]"], {}, "whole numbers"),
    ("gather", ["f32[]", "i32[2]"], {}, "at least one axis"),
    ("reverse", ["f32[]"], {"axis": 0}, "out of range"),
    ("param", [], {"name": "w", "shape": (2.5,)}, "must hold int"),
    # contraction
    ("matmul", ["f32[2]", "f32[2, 3]"], {}, "at least two axes"),
    ("matmul", ["f32[2, 3]", "f32[4, 3]"], {}, "must be equal, got 3 and 4"),
    ("matmul", ["f32[2, 3]", "f16[3, 4]"], {}, "one element type"),
    ("dense", ["f32[2, 3]", "f32[3, 4]", "f32[5]"], {}, r"weight must be \[k, n\] and bias \[n\]"),
    ("einsum", ["f32[2, 3]", "f32[3, 4]"], {"equation": "ab,bc"}, "must look like"),
    ("einsum", ["f32[2, 3]", "f32[3, 4]"], {"equation": "ab,bc,cd->ad"}, "takes 3 operands, got 2"),
    ("einsum", ["f32[2, 3]", "f32[4, 4]"], {"equation": "ab,bc->ac"}, "both 3 and 4"),
    ("einsum", ["f32[2, 3]", "f32[3, 4]"], {"equation": "ab,bc->ad"}, "must name axes of the operands"),
    ("einsum", ["f32[2, 2]", "f32[2, 4]"], {"equation": "aa,ac->c"}, "must name each axis"),
    ("einsum", ["f32[2, 3]", "f16[3, 4]"], {"equation": "ab,bc->ac"}, "one element type"),
    ("reduce_sum", ["f32[2, 3]"], {"axes": (2,)}, "axis 2 is out of range"),
    ("reduce_sum", ["f32[2, 3]"], {"axes": (1, -1)}, "once"),
    ("reduce_sum", ["f32[2, 3]"], {"axes": ("a",)}, "must hold int alone"),
    ("reduce_sum", ["bool[2]"], {"axes": (0,)}, "must hold numbers"),
    ("reduce_mean", ["i32[2]"], {"axes": (0,)}, "floating-point"),
    # prefix, norm, position
    ("cumsum", ["f32[2]"], {"axis": 1}, "out of range"),
    ("prefix_sum", ["f32[2]"], {"cumsum": "scan"}, "axis 1"),
    ("prefix_sum", ["f32[2, 3]"], {"cumsum": "scam"}, "must be one of 'scan', 'matmul', 'native', got 'scam'"),
    ("layer_normalization", ["f32[2, 8]", "f32[8]", "f32[7]"], {}, r"f32\[8\], got f32\[7\]"),
    ("layer_normalization", ["f32[2, 8]", "f32[8]", "f16[8]"], {}, "got f16"),
    ("scale_normalization", ["i32[2, 8]", "i32[]"], {}, "float tensor"),
    ("sinusoid", [], {"length": 3, "half": 0}, "half must be at least 1"),
    ("rope", ["f32[2, 5, 7]"], {}, "must be even"),
    ("rope", ["f32[4]"], {"axis": 0}, "axis before it"),
    ("rope", ["f32[]"], {}, "out of range"),
    ("rel_pos_bias", ["f32[8]"], {"n": 2}, r"\[2 \* span - 1\]"),
    ("rel_pos_bias", ["f32[9]"], {"n": 6}, "at least 11 weights"),
    ("rope_rel_pos_bias", ["f32[8]", "f32[6]"], {"n": 6}, "one even size"),
    # attention
    ("quadratic_attention", ["f32[4]", "f32[4]", "f32[4]", "f32[1, 1]"], {"causal": True}, "must have the same type"),
    (
        "quadratic_attention",
        ["f32[2, 256, 4]", "f32[2, 256, 4]", "f32[2, 256, 4]", "f32[256, 128]"],
        {"causal": True},
        r"bias must have shape \(n, n\) = \(256, 256\).*got f32\[256, 128\]",
    ),
    ("linear_attention", ["f32[2, 3, 4]"] * 3, {"causal": True}, "must be chunked"),
    ("linear_attention", ["f32[2, 3, 4, 5]"] * 3 + ["bool[2, 3]"], {"causal": True}, r"visible must be bool"),
    ("gated_mixed_attention", ["f32[2, 4, 9]", "f32[9]", *CORE], {"chunk": 3}, r"\[b, t, 2 \* e \+ s\] with s = 4"),
    (
        "gated_mixed_attention",
        ["f32[2, 4, 8]", "f32[8]", "f32[3, 4]", *CORE[1:]],
        {"chunk": 3},
        r"gamma and beta must be \[4, s\]",
    ),
    ("gated_mixed_attention", ["f32[2, 5, 8]", "f32[8]", *CORE], {"chunk": 3}, r"sin and cos must be f32\[5, 2\]"),
    ("gated_mixed_attention", ["f32[2, 4, 8]", "f32[8]", *CORE], {"chunk": 2}, r"\(2, 2\)"),
    ("gated_mixed_attention", ["f32[2, 4, 8]", "f32[9]", *CORE], {"chunk": 3}, r"shift must be f32\[8\]"),
    ("chunked_recurrence", ["f32[4, 4]"] * 3, {"chunk": 3, "causal": True}, r"\[b, t, \*\]"),
    ("chunked_recurrence", ["f32[2, 4, 4]"], {"chunk": 3, "causal": True}, "quad_q or lin_q is required"),
    ("chunked_recurrence", ["f32[2, 4, 4]"] * 2, {"chunk": 3, "causal": True}, "quad_q requires quad_k"),
    ("chunked_recurrence", [*CHUNKS, "f32[4, 4]"], {"chunk": 3, "causal": True}, r"\(3, 3\)"),
    ("chunked_recurrence", CHUNKS, {"causal": True, "lin_norm": "none"}, "requires a chunk"),
    ("chunked_recurrence", CHUNKS, {"chunk": 3, "causal": True, "overlap": True}, "got relu2 and no bias"),
    (
        "chunked_recurrence",
        [*CHUNKS, "f32[6, 6]"],
        {"chunk": 3, "causal": True, "overlap": True, "kernel": "identity"},
        "other than identity, got identity",
    ),
    ("chunked_recurrence", [*GLOBAL], {"causal": True}, "must be 'none' without a chunk, got 'chunk_mean'"),
    ("chunked_recurrence", [*GLOBAL, None, "f32[2, 4]"], {"chunk": 3, "causal": True}, "segment_ids must be whole"),
    ("chunked_recurrence", [*GLOBAL, None, "i32[2, 4]"], {"causal": True, "lin_norm": "none"}, "give documents"),
    ("chunked_recurrence", [*GLOBAL, "f32[2]"], {"chunk": 3, "causal": True}, r"decay must be f32\[\], or f32\[2, 4\]"),
    ("chunked_recurrence", [*GLOBAL, "f32[]"], {"chunk": 3, "causal": False}, "decay requires causal = true"),
    (
        "chunked_recurrence",
        [*GLOBAL, "f32[]"],
        {"chunk": 3, "causal": True, "cumsum": "native"},
        "not available with cumsum = native",
    ),
    ("chunked_recurrence", [*CHUNKS, *[None] * 3, "f32[]"], {"chunk": 3, "causal": True}, "requires the global part"),
    ("linear_attention", [*CELLS, *[None] * 3, "f32[3]"], {"causal": True, "cumsum": "scan"}, "decay must be f32"),
    (
        "linear_attention",
        [*CELLS, *[None] * 3, "f32[2, 1]"],
        {"causal": True, "cumsum": "native"},
        "without a native sum",
    ),
    # blocks
    ("embed", ["f32[2, 3]"], {"vocab": 5, "dim": 4}, "whole numbers"),
    ("embed", ["i32[2, 3]"], {"vocab": 0, "dim": 4}, "vocab must be at least 1"),
    ("scaled_sin", ["f32[2, 3, 5]"], {}, "even width"),
    ("layer_norm", ["f32[2, 3]"], {}, r"float \[b, t, d\]"),
    ("layer_norm", ["f32[2, 3, D]"], {}, "d known"),
    ("offset_scale", ["f32[2, 3, 4]", "f32[5, 4]", "f32[4, 4]"], {}, "gamma and beta"),
    ("gau", ["f32[2, 3, 4]"], {"key_dim": 3}, "must be even"),
    ("gau", ["f32[2, 3, 5]"], {"expansion": 1.5}, "not a whole number"),
    ("gau", ["f32[2, 3, 4]"], {"expansion": float("inf")}, "not a whole number"),
    ("gau", ["f32[2, 3, 4]"], {"expansion": 1e300}, "not a whole number"),
    ("gau", ["f32[2, 9, 4]"], {"max_len": 8}, "max_len = 8 positions, the sequence has 9"),
    ("flash", ["f32[2, 3, 4]"], {"chunk": 0}, "chunk must be at least 1"),
    ("flash", ["f32[2, 3, 4]"], {"chunk": "atuo"}, "chunk must be int or auto"),
    ("flash", ["f32[2, 3, 4]"], {"norm": "batch"}, "must be one of"),
    ("flash", ["f32[2, 3, 4]"], {"use_local": False, "use_global": False}, "local part"),
    ("flash", ["f32[2, 3, 4]", "i32[2, 4]"], {"chunk": 2}, r"segment_ids .* \[2, 3\]"),
    ("flash", ["f32[2, 3, 4]"], {"chnk": 2}, "no attribute 'chnk'; did you mean 'chunk'"),
]


@pytest.mark.parametrize(("op", "operands", "attrs", "problem"), REFUSED)
def test_an_op_refuses_with_what_was_wanted_and_what_was_got(op, operands, attrs, problem) -> None:  # type: ignore[no-untyped-def]
    b = Builder()
    inputs = [None if text is None else b.input(f"x{i}", text) for i, text in enumerate(operands)]
    with pytest.raises(FlashirError, match=problem) as refused:
        b.insert(op, inputs, attrs)
    assert op in refused.value.message


def test_an_op_that_is_unknown_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(FlashirError, match="unknown op 'reul2'; did you mean 'relu2'"):
        Builder().insert("reul2", [])


def test_every_problem_of_an_op_is_told_at_once() -> None:
    b = Builder()
    with pytest.raises(FlashirError) as refused:
        b.insert("flash", [b.input("x", "f32[2, 3, 4]")], {"chunk": 0, "norm": "batch", "bogus": 1})
    assert len(refused.value.problems) == 3


def test_a_type_that_an_attribute_wants_is_no_string() -> None:
    b = Builder()
    with pytest.raises(FlashirError, match="dtype must be DType"):
        b.cast(b.input("x", "f32[2]"), dtype="f16")
    assert b.cast(b.inputs[0], dtype=DType.F16).type.dtype is DType.F16


def test_an_absent_operand_is_refused_where_none_is_optional() -> None:
    b = Builder()
    x = b.input("x", "f32[2]")
    with pytest.raises(FlashirError, match="concat"):
        b.insert("concat", [x, None, x], {"axis": 0})
    with pytest.raises(FlashirError, match="add"):
        b.insert("add", [None, x])
    with pytest.raises(FlashirError, match="flash takes 1 to 3 operands"):
        loads("model @m(%x: f32[2, 3, 4]) { %a = flash(%x, %x, %x, %x) {chunk = 2} return %a }")


@pytest.mark.parametrize("name", ["a b", "../up", 'x"y', "x;import os", "{", "layers.{i", "x\ny", "<b>"])
def test_what_is_no_name_of_a_parameter_is_refused(name: str) -> None:
    b = Builder("named")
    with pytest.raises(FlashirError, match="must be a name such as"):
        b.param(name=name, shape=(2,))
    with pytest.raises(FlashirError, match="must be a name such as"):
        b.scaled_sin(b.input("x", "f32[1, 2, 4]"), scope=name)
