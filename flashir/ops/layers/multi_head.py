"""Multi-head blocks: a projection to queries, keys and values, attention in each head, and a projection back.

x + attend(q, k, v) W_out, with [q, k, v] = norm(x) W_qkv split into heads of s = d / h. The blocks mhsa, performer,
combiner and mc_mhsa differ in their attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.op import AttrSpec, ParamSpec, choice, flag, integer
from flashir.ir.types import TensorType
from flashir.ops.attention.documents import check_documents
from flashir.ops.functions.position import ref_rope
from flashir.ops.layers.blocks import Params, check_tokens, matrix, norm_params, width_of
from flashir.ops.layers.token_shift import TOKEN_SHIFT, norm_and_shift, ref_norm_and_shift

NORM = choice("layer_norm", "scale_norm", default="layer_norm")
CAUSAL = flag(True, doc="a token does not see later tokens")
HEADS: dict[str, AttrSpec] = {
    "heads": integer(12, least=1, doc="h, which divides d; the paper's 12 are for d = 768"),
    "causal": CAUSAL,
    "norm": NORM,
    "rope": flag(True, doc="rotate queries and keys by their position (Code 3)"),
    "token_shift": TOKEN_SHIFT,
}
SCOPE = "layers/attn"

Attend = Callable[[Any, Any, Any], Any]


def infer_heads(x: TensorType, documents: TensorType | None = None, *, heads: int, rope: bool, **_: Any) -> TensorType:
    """The type of x. Raises IRError if the heads do not divide its width, or a head has an odd width under rope."""
    check_tokens(x)
    check_documents(documents, *x.shape[:2])
    if width_of(x) % heads:
        raise IRError(f"heads must divide the width, got {heads} heads of {x}")
    if rope and head_width(x, heads) % 2:
        raise IRError(f"rope rotates pairs, so heads must have an even width, got {head_width(x, heads)} of {x}")
    return x


def head_width(x: TensorType, heads: int) -> int:
    """s = d / h."""
    return width_of(x) // heads


def head_params(
    x: TensorType, documents: TensorType | None = None, *, norm: str, gating: bool = False, **_: Any
) -> dict[str, ParamSpec]:
    """The parameters of the norm, the two projections, and the gate if there is one."""
    d = width_of(x)
    gate = {"gate.weight": matrix(d, d), "gate.bias": ParamSpec((d,))}
    return {
        **norm_params(norm, d, "norm."),
        **(gate if gating else {}),
        "qkv.weight": matrix(d, 3 * d),
        "qkv.bias": ParamSpec((3 * d,)),
        "out.weight": matrix(d, d),
        "out.bias": ParamSpec((d,)),
    }


def multi_head(
    b: Builder,
    x: Value,
    p: Params,
    attend: Attend,
    documents: Value | None,
    *,
    heads: int,
    norm: str,
    rope: bool,
    token_shift: bool,
) -> Value:
    """x + merged(attend(q, k, v)) W_out, where q, k, v are [b, h, t, s]. With `rope`, q and k are rotated."""
    read = norm_and_shift(b, x, p, documents, norm=norm, token_shift=token_shift)
    q, k, v = (cut_heads(b, operand, heads) for operand in projected(b, read, p))
    if rope:
        q, k = b.rope(q, axis=2), b.rope(k, axis=2)
    return merged(b, x, p, attend(q, k, v))


def projected(b: Builder, read: Value, p: Params) -> tuple[Value, ...]:
    """q, k, v of all heads concatenated, [b, t, d] each, from the input of the layer."""
    d = width_of(read.type)
    qkv = b.dense(read, p["qkv.weight"], p["qkv.bias"])
    return b.results("split", qkv, axis=-1, sizes=(d, d, d))


def merged(b: Builder, x: Value, p: Params, out: Value) -> Value:
    """[b, h, t, s] -> x + out W_out, [b, t, d]"""
    together = b.reshape(b.transpose(out, perm=(0, 2, 1, 3)), shape=x.type.shape)
    return b.add(b.dense(together, p["out.weight"], p["out.bias"]), x)


def cut_heads(b: Builder, x: Value, heads: int) -> Value:
    """[b, t, d] -> [b, h, t, s]"""
    batch, length, _ = x.type.shape
    apart = b.reshape(x, shape=(batch, length, heads, head_width(x.type, heads)))
    return b.transpose(apart, perm=(0, 2, 1, 3))


def rows_of_heads(b: Builder, x: Value) -> Value:
    """[b, h, t, s] -> [b * h, t, s]"""
    batch, heads, length, s = x.type.shape
    return b.reshape(x, shape=(batch * heads, length, s))


def inverse_root(q: Value) -> float:
    """1 / sqrt(s) of [b, h, t, s], the scale of the scores."""
    s = q.type.shape[-1]
    assert isinstance(s, int)
    return float(s**-0.5)


def ref_multi_head(
    x: Any,
    p: Params,
    attend: Attend,
    documents: Any,
    *,
    heads: int,
    norm: str,
    rope: bool,
    token_shift: bool,
    **_: Any,
) -> Any:
    """`multi_head` in numpy."""
    read = ref_norm_and_shift(x, p, documents, norm=norm, token_shift=token_shift)
    q, k, v = (ref_cut_heads(operand, heads) for operand in ref_projected(read, p))
    if rope:
        q, k = ref_rope(q, 2), ref_rope(k, 2)
    return ref_merged(x, p, attend(q, k, v))


def ref_projected(read: Any, p: Params) -> list[Any]:
    """`projected` in numpy."""
    return np.split(read @ p["qkv.weight"] + p["qkv.bias"], 3, axis=-1)


def ref_merged(x: Any, p: Params, out: Any) -> Any:
    """`merged` in numpy."""
    return x + np.concatenate(list(np.moveaxis(out, 1, 0)), axis=-1) @ p["out.weight"] + p["out.bias"]


def ref_cut_heads(x: Any, heads: int) -> Any:
    """`cut_heads` in numpy."""
    return np.stack(np.split(x, heads, axis=-1), axis=1)
