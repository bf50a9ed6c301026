"""mhsa: multi-head self-attention with softmax, the attention of the transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flashir.ops.blocks import Params
from flashir.ops.costs import Contraction, Cost, Types
from flashir.ops.heads import (
    HEADS,
    SCOPE,
    cost_heads,
    head_params,
    infer_heads,
    inverse_root,
    multi_head,
    ref_multi_head,
)
from flashir.ops.opdef import OpDef, define_op, sample
from flashir.ops.softmax import SOFTMAX_WEIGHT, ref_softmax_attention

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _ref_mhsa(x: Any, p: Params, causal: bool, **attrs: Any) -> Any:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return ref_softmax_attention(q, k, v, causal, 1 / q.shape[-1] ** 0.5)

    return ref_multi_head(x, p, attend, **attrs)


def _decompose_mhsa(
    b: Builder, x: Value, p: Params, heads: int, causal: bool, norm: str, rope: bool, scope: str | None
) -> Value:
    def attend(q: Value, k: Value, v: Value) -> Value:
        return b.softmax_attention(q, k, v, causal=causal, scale=inverse_root(q))

    return multi_head(b, x, p, attend, heads=heads, norm=norm, rope=rope)


def _cost_mhsa(ins: Types, outs: Types, heads: int, **_: Any) -> Cost:
    x = ins[0]
    assert x is not None
    batch, t, d = x.sizes
    products = (Contraction(batch * heads, t, d // heads, t), Contraction(batch * heads, t, t, d // heads))
    cost = cost_heads(ins, outs, *products)
    return replace(cost, flops=cost.flops + float(SOFTMAX_WEIGHT) * batch * heads * t * t)


mhsa = define_op(
    OpDef(
        "mhsa",
        ("x",),
        infer_heads,
        _ref_mhsa,
        _cost_mhsa,
        (
            sample("f32[2, 5, 8]", heads=2),
            sample("f32[2, 5, 8]", heads=2, causal=False, norm="scale_norm"),
            sample("f32[1, 3, 6]", heads=2, rope=False),
            sample("f32[1, 0, 4]", heads=1),
        ),
        attrs=HEADS,
        decompose=_decompose_mhsa,
        params=head_params,
        scope=SCOPE,
        doc="x + multi-head softmax attention of norm(x) (Vaswani et al. 2017), with RoPE",
    )
)
