"""RetNet (Sun et al. 2023) as a plug-in of one file: `msr`, retention in heads, each with a decay of its own.

    [project.entry-points."flashir.ops"]
    retnet = "retnet"

Axes: b batch, h heads, t length, d model, s = d / h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir import AUTO
from flashir.ir.choices import Choice
from flashir.ir.op import OpDef, choice, define_op, integer, sample
from flashir.ir.traits import each_row_alone
from flashir.ops.functions.norm import accumulation_dtype
from flashir.ops.functions.position import ref_rope
from flashir.ops.layers.blocks import apply_norm, ref_norm
from flashir.ops.layers.multi_head import NORM, cut_heads, head_params, head_width, infer_heads, ref_cut_heads

TILE = Choice((16, 32, 64, 128, 256), "tile {}", is_length=True)
CUMSUM = Choice(("scan", "matmul"), "sum of states by {}")  # a native cumulative sum does not decay
EPS = 1e-5


def log_decay(heads: int) -> tuple[float, ...]:
    """log(1 - 2^(-5 - i)) of head i (section 2.2)"""
    return tuple(float(x) for x in np.log1p(-(2.0 ** (-5 - np.arange(heads)))))


def _reference(x: Any, p: Any, *, heads: int, norm: str, **_: Any) -> Any:
    """Token by token, with one state a head (Eq. 6)."""
    normed = ref_norm(x, p, norm, "norm.")
    q, k, v = (ref_cut_heads(each, heads) for each in np.split(normed @ p["qkv.weight"] + p["qkv.bias"], 3, axis=-1))
    q, k = ref_rope(q, 2) / q.shape[-1] ** 0.5, ref_rope(k, 2)
    left = (1 - 2.0 ** (-5 - np.arange(heads)))[:, None, None]
    state, out = np.zeros((x.shape[0], heads, q.shape[-1], v.shape[-1])), np.zeros_like(v)
    for t in range(x.shape[1]):
        state = left * state + k[:, :, t, :, None] * v[:, :, t, None]
        out[:, :, t] = np.einsum("bhs,bhse->bhe", q[:, :, t], state)
    out = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + EPS)
    gate = normed @ p["gate.weight"] + p["gate.bias"]
    gated = gate / (1 + np.exp(-gate)) * out.swapaxes(1, 2).reshape(x.shape)
    return x + gated @ p["out.weight"] + p["out.bias"]


def _decompose(b: Any, x: Any, *, p: Any, heads: int, norm: str, tile: int, cumsum: str, scope: str | None) -> Any:
    """x + (silu(n W_G) group_norm(retention(n))) W_O, n = norm(x) (Eq. 8)"""
    normed = apply_norm(b, x, p, norm, "norm.")
    d, s, dtype = x.type.shape[-1], head_width(x.type, heads), accumulation_dtype(x.type.dtype)
    qkv = b.results("split", b.dense(normed, p["qkv.weight"], p["qkv.bias"]), axis=-1, sizes=(d, d, d))
    q, k, v = (cut_heads(b, each, heads) for each in qkv)
    q, k = b.mul(b.rope(q, axis=2), s**-0.5), b.rope(k, axis=2)
    decay = b.literal(values=log_decay(heads), shape=(heads,), dtype=dtype)
    sums = {"causal": True, "lin_norm": "none", "tile": tile, "cumsum": cumsum}
    out = b.chunked_recurrence(v, lin_q=q, lin_k=k, decay=decay, **sums)
    flat = b.reshape(b.transpose(out, perm=(0, 2, 1, 3)), shape=x.type.shape)
    gate = b.silu(b.dense(normed, p["gate.weight"], p["gate.bias"]))
    mixed = b.mul(gate, b.group_normalization(flat, groups=heads, eps=EPS))
    return b.add(b.dense(mixed, p["out.weight"], p["out.bias"]), x)


define_op(
    OpDef(
        "msr",
        ("x",),
        infer=lambda x, *, heads, **_: infer_heads(x, heads=heads, rope=True),
        ref=_reference,
        cost=None,  # what its decomposition adds up to
        samples=tuple(
            sample(f"f32[2, {t}, 12]", heads=3, tile=tile, cumsum=kind)
            for t, tile in ((7, 3), (6, 16), (0, 16))
            for kind in ("scan", "matmul")
        ),
        attrs={
            "heads": integer(8, least=1, doc="h, which divides d"),
            "norm": NORM,
            "tile": integer(AUTO, least=1, choice=TILE, doc="tokens computed together, the function is the same"),
            "cumsum": choice("scan", "matmul", default=AUTO, choice=CUMSUM, doc="how states are summed up"),
        },
        decompose=_decompose,
        params=lambda x, *, norm, **_: head_params(x, norm=norm, gating=True),
        scope="layers/attn",
        ignores_padding=each_row_alone,
        doc="x + multi-scale retention of norm(x), with group norm and a swish gate (RetNet)",
    )
)
