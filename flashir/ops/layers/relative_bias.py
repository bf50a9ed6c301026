"""The relative biases of the gated blocks: Code 4 of the paper, or the buckets of T5.

The span of a bias is the largest number of positions that attend to each other. Parameters are named `rel_bias.*`.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import copied
from flashir.ir.dims import Size
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, ParamSpec, choice, define_op, flag, sample, size
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import DType, TensorType
from flashir.ops.decode.context import DecodeContext
from flashir.ops.decode.kv_cache import by_distance
from flashir.ops.functions.position import ref_bias, ref_rope_bias
from flashir.ops.layers.blocks import WEIGHT_STD, Params

SHORT_SPAN = 512  # a bias with a shorter span has one weight per distance (Code 4)
BIAS_WIDTH = 128
ABOVE_ZERO = 4 * WEIGHT_STD
"""Where a bias begins by fan-in: hardly any score is below 0. At most 1 / sqrt(span), where relu2 makes a mean."""
BUCKETS = 32  # T5: Raffel et al. 2020
FARTHEST_BUCKET = 128  # from this distance on, all positions share the last bucket
REL_BIAS = choice("paper", "t5", default="paper", doc="relative bias of Code 4, or by T5's buckets")


def bias_params(kind: str, span: int) -> dict[str, ParamSpec]:
    """The parameters of a bias over `span` positions."""
    raised = min(ABOVE_ZERO, max(1, span) ** -0.5)
    if kind == "t5":
        return {"rel_bias.buckets": ParamSpec((BUCKETS,), std=WEIGHT_STD, raised=raised)}
    if span < SHORT_SPAN:
        return {"rel_bias.w": ParamSpec((2 * span - 1,), std=WEIGHT_STD, raised=raised)}
    return {f"rel_bias.{name}": ParamSpec((BIAS_WIDTH,), std=WEIGHT_STD) for name in "ab"}


def bias_of(b: Builder, p: Params, kind: str, n: Size, span: int, causal: bool) -> Value:
    """[n, n], the bias of n positions from parameters that span `span`."""
    if kind == "t5":
        return b.bucket_rel_pos_bias(p["rel_bias.buckets"], n=n, causal=causal)
    if span < SHORT_SPAN:
        return b.rel_pos_bias(p["rel_bias.w"], n=n)
    return b.rope_rel_pos_bias(p["rel_bias.a"], p["rel_bias.b"], n=n)


def ref_bias_of(p: Params, kind: str, n: int, span: int, causal: bool) -> Any:
    """`bias_of` in numpy."""
    if kind == "t5":
        return ref_bucket_bias(p["rel_bias.buckets"], n, causal)
    return ref_bias(p["rel_bias.w"], n) if span < SHORT_SPAN else ref_rope_bias(p["rel_bias.a"], p["rel_bias.b"], n)


def _infer_bucket_bias(w: TensorType, n: Size, causal: bool) -> TensorType:
    if w.rank != 1 or not isinstance(w.shape[0], int) or w.shape[0] < 4 or w.shape[0] % 4:
        raise IRError(f"the buckets must be a vector of 4, 8, 12, .. weights, got {w}")
    return w.with_shape((n, n))


def ref_bucket_bias(w: Any, n: int, causal: bool) -> Any:
    """`bucket_rel_pos_bias` in numpy, by the logarithm."""
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]  # distance of the key before the query
    count = len(w) if causal else len(w) // 2
    far = np.maximum(distance, 0) if causal else np.abs(distance)
    exact = count // 2
    scaled = np.log(np.maximum(far, 1) / exact) / np.log(FARTHEST_BUCKET / exact)
    bucket = np.where(far < exact, far, np.minimum(exact + np.floor(scaled * exact + 1e-9), count - 1)).astype(int)
    return w[bucket if causal else bucket + count * (distance < 0)]


def _decompose_bucket_bias(b: Builder, w: Value, n: Size, causal: bool) -> Value:
    """A weight for each distance, then bias[i, j] = weights[j - i + n - 1]"""
    buckets = w.type.shape[0]
    assert isinstance(buckets, int)
    if n == 0:
        return b.broadcast(b.constant(0.0, w.type.dtype), shape=(0, 0))
    count = buckets if causal else buckets // 2
    bucket = _buckets(b, n, count)
    near = b.gather(w, bucket)  # weights of keys 0, 1, .. before the query
    own = b.slice(w, axis=0, stop=1)
    after = b.broadcast(own, shape=(n,)) if causal else b.gather(w, b.add(bucket, count))
    before = b.reverse(near, axis=0)
    return b.rel_pos_bias(b.concat(before, b.slice(after, axis=0, start=1, stop=n), axis=0), n=n)


def _step_bucket_bias(now: DecodeContext, states: States, w: Value, n: Size, causal: bool) -> tuple[Value, States]:
    """The weights of the keys before the query, by their buckets."""
    buckets = w.type.shape[0]
    assert isinstance(buckets, int)
    count = buckets if causal else buckets // 2
    return by_distance(now, lambda distances: now.b.gather(w, _buckets(now.b, distances, count))), {}


def _buckets(b: Builder, n: Size, count: int) -> Value:
    """i32 [n]: the bucket of each distance 0 .. n - 1, which is the number of buckets that begin at or below it."""
    exact = count // 2
    rate = log(FARTHEST_BUCKET / exact) / exact
    index = b.add(b.iota(length=count - 1, dtype=DType.F32), 1.0)
    grown = b.mul(b.exp(b.mul(b.sub(index, float(exact)), rate)), float(exact))
    # subtract a little, because 16 may come out as 16.000001
    begins = b.select(b.less_equal(index, float(exact)), index, b.sub(grown, 1e-3))
    distance = b.reshape(b.iota(length=n, dtype=DType.F32), shape=(n, 1))
    reached = b.less_equal(b.reshape(begins, shape=(1, count - 1)), distance)
    return b.reduce_sum(b.cast(reached, dtype=DType.I32), axes=(1,))


bucket_rel_pos_bias = define_op(
    OpDef(
        "bucket_rel_pos_bias",
        ("w",),
        infer=_infer_bucket_bias,
        ref=ref_bucket_bias,
        cost=copied,
        samples=tuple(
            sample(f"f32[{buckets}]", n=n, causal=causal)
            for buckets, n in ((8, 6), (32, 200), (8, 0))
            for causal in (True, False)
        ),
        attrs={"n": size(doc="positions"), "causal": flag(doc="no buckets for keys after the query")},
        decompose=_decompose_bucket_bias,
        stream=StreamingRule(_step_bucket_bias),
        doc="bias[i, j] = w[bucket of j - i]: far distances share buckets",
        source="T5, Raffel et al. 2020",
    )
)
