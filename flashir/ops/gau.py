"""gau: the gated attention unit with quadratic attention (Code 6), the layer of FLASH-Quad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashir.errors import IRError
from flashir.ir.types import DType, TensorType
from flashir.ops.attention import ref_quadratic
from flashir.ops.blocks import Params
from flashir.ops.costs import Cost, Types
from flashir.ops.gated import (
    GATED,
    QK_SCALE,
    SHORT_SPAN,
    bias_of,
    cost_gated,
    gated,
    gated_params,
    infer_gated,
    ref_bias_of,
    ref_gated,
)
from flashir.ops.norm import as_dtype
from flashir.ops.opdef import OpDef, ParamSpec, define_op, integer, sample

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _infer_gau(x: TensorType, max_len: int, **attrs: Any) -> TensorType:
    length = x.shape[1] if x.rank == 3 else 0
    if max_len < SHORT_SPAN and isinstance(length, int) and length > max_len:
        raise IRError(f"the relative bias spans max_len = {max_len} positions, the sequence has {length}: {x}")
    return infer_gated(x, **attrs)


def _params_gau(
    x: TensorType, expansion: float, key_dim: int, norm: str, max_len: int, **_: Any
) -> dict[str, ParamSpec]:
    return gated_params(x, expansion, key_dim, norm, 2, max_len)


def _ref_gau(x: Any, p: Params, *, causal: bool, qk_scale: str, max_len: int, key_dim: int, **attrs: Any) -> Any:
    def attend(heads: list[Any], v: Any) -> Any:
        q, k = heads
        n = v.shape[1]
        divisor = {"length": max(n, 1), "none": 1, "max_len": max_len, "sqrt_key": key_dim**0.5}[qk_scale]
        return ref_quadratic(q / divisor, k, v, ref_bias_of(p, n, max_len), causal)

    return ref_gated(x, p, attend, key_dim=key_dim, **attrs)


def _decompose_gau(
    b: Builder, x: Value, p: Params, *, qk_scale: str, max_len: int, scope: str | None, **attrs: Any
) -> Value:
    n = x.type.shape[1]

    def attend(heads: list[Value], v: Value) -> Value:
        q, k = heads
        if qk_scale == "length":
            length = b.size(value=n if attrs["valid"] is None else attrs["valid"], dtype=DType.F32)
            q = b.mul(q, as_dtype(b, b.reciprocal(b.maximum(length, 1.0)), q.type.dtype))
        elif qk_scale != "none":
            q = b.mul(q, 1 / max_len if qk_scale == "max_len" else attrs["key_dim"] ** -0.5)
        return b.quadratic_attention(q, k, v, bias_of(b, p, n, max_len), causal=attrs["causal"])

    return gated(b, x, p, attend, heads=2, **attrs)


def _cost_gau(ins: Types, outs: Types, **attrs: Any) -> Cost:
    x = ins[0]
    assert x is not None
    return cost_gated(ins, outs, chunk=x.sizes[1], **attrs)


gau = define_op(
    OpDef(
        "gau",
        ("x",),
        _infer_gau,
        _ref_gau,
        _cost_gau,
        (
            sample("f32[2, 5, 4]", key_dim=6, max_len=7),
            sample("f32[2, 5, 4]", key_dim=6, max_len=600, causal=False),
            sample("f32[1, 3, 4]", key_dim=2, expansion=1.5, max_len=3, qk_scale="sqrt_key", norm="scale_norm"),
            sample("f32[1, 3, 4]", key_dim=2, max_len=4, qk_scale="max_len", causal=False),
            sample("f32[1, 0, 4]", key_dim=2, max_len=4),
        ),
        attrs={**GATED, "qk_scale": QK_SCALE, "max_len": integer(8192, least=1, doc="span of the relative bias")},
        decompose=_decompose_gau,
        params=_params_gau,
        scope="layers",
        doc="gated attention unit with quadratic attention (Code 6)",
    )
)
