"""flash: the gated attention unit with mixed chunk attention (Code 8), the layer of FLASH."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flashir.errors import IRError
from flashir.ir.dims import ceildiv, divides
from flashir.ir.graph import AUTO
from flashir.ir.types import TensorType
from flashir.ops.attention import CUMSUM, LIN_NORM, check_segments, chunked, overlapping_chunks, ref_mixed, unchunked
from flashir.ops.blocks import Params
from flashir.ops.costs import Cost, Types
from flashir.ops.gated import (
    GATED,
    PAPER_CHUNK,
    QK_SCALE,
    bias_of,
    cost_gated,
    gated,
    gated_params,
    infer_gated,
    ref_bias_of,
    ref_gated,
)
from flashir.ops.opdef import OpDef, ParamSpec, define_op, flag, integer, sample
from flashir.ops.shape import pad_to_multiple

if TYPE_CHECKING:
    from flashir.ir.builder import Builder
    from flashir.ir.graph import Value


def _params_flash(
    x: TensorType,
    segment_ids: TensorType | None = None,
    *,
    expansion: float,
    key_dim: int,
    norm: str,
    chunk: Any,
    use_local: bool,
    use_global: bool,
    **_: Any,
) -> dict[str, ParamSpec]:
    span = (PAPER_CHUNK if chunk is AUTO else chunk) if use_local else None
    return gated_params(x, expansion, key_dim, norm, 2 * (use_local + use_global), span)


def _infer_flash(
    x: TensorType, segment_ids: TensorType | None = None, *, use_local: bool, use_global: bool, **attrs: Any
) -> TensorType:
    if not (use_local or use_global):
        raise IRError("flash needs its local part, its global part, or both")
    if segment_ids is not None:
        valid = x.shape[1] if attrs["valid"] is None else attrs["valid"]
        check_segments(segment_ids, (x.shape[0], valid))
    return infer_gated(x, **attrs)


def _flash_divisor(qk_scale: str, chunk: int, key_dim: int, max_len: int) -> float:
    return float({"length": chunk, "none": 1, "max_len": max_len, "sqrt_key": key_dim**0.5}[qk_scale])


def _ref_flash(
    x: Any,
    segment_ids: Any = None,
    *,
    p: Params,
    chunk: int,
    causal: bool,
    cumsum: str,
    lin_norm: str,
    qk_scale: str,
    max_len: int,
    use_local: bool,
    use_global: bool,
    key_dim: int,
    **attrs: Any,
) -> Any:
    def attend(heads: list[Any], v: Any) -> Any:
        none = [np.zeros((*v.shape[:2], key_dim))] * 2
        quad_q, quad_k = heads[:2] if use_local else none
        lin_q, lin_k = heads[-2:] if use_global else none
        bias = ref_bias_of(p, chunk, chunk) if use_local else np.full((chunk, chunk), -1.0)
        divisor = _flash_divisor(qk_scale, chunk, key_dim, max_len)
        return ref_mixed(
            quad_q / divisor,
            quad_k,
            lin_q,
            lin_k,
            v,
            bias,
            segment_ids,
            chunk=chunk,
            causal=causal,
            cumsum=cumsum,
            lin_norm=lin_norm,
        )

    return ref_gated(x, p, attend, key_dim=key_dim, **attrs)


def _decompose_flash(
    b: Builder,
    x: Value,
    segment_ids: Value | None = None,
    *,
    p: Params,
    chunk: int,
    qk_scale: str,
    max_len: int,
    use_local: bool,
    use_global: bool,
    cumsum: str,
    lin_norm: str,
    scope: str | None,
    **attrs: Any,
) -> Value:
    t, valid = x.type.shape[1], attrs["valid"]
    whole = t if valid is None or attrs["causal"] else ceildiv(valid, chunk) * chunk
    if not divides(chunk, t) or whole != t:  # pad once, on the narrow residual stream; average over no empty chunk
        settings = dict(
            attrs,
            chunk=chunk,
            qk_scale=qk_scale,
            max_len=max_len,
            use_local=use_local,
            use_global=use_global,
            cumsum=cumsum,
            lin_norm=lin_norm,
            scope=scope,
        )
        settings["valid"] = t if valid is None else valid
        padded = pad_to_multiple(b, x, 1, chunk) if whole == t else b.slice(x, axis=1, stop=whole)
        out = b.flash(padded, segment_ids, **settings)
        return b.slice(out, axis=1, stop=t) if whole == t else b.pad(out, axis=1, after=t - whole)

    def attend(heads: list[Value], v: Value) -> Value:
        if use_local:
            heads[0] = b.mul(heads[0], 1 / _flash_divisor(qk_scale, chunk, attrs["key_dim"], max_len))
        if use_local and use_global:
            return b.mixed_chunk_attention(
                *heads,
                v,
                bias_of(b, p, chunk, chunk),
                segment_ids,
                chunk=chunk,
                causal=attrs["causal"],
                cumsum=cumsum,
                lin_norm=lin_norm,
            )
        q, k, values = (chunked(b, part, chunk) for part in (*heads, v))
        if use_local:
            out = b.quadratic_attention(q, k, values, bias_of(b, p, chunk, chunk), causal=attrs["causal"])
        else:
            visible = None if segment_ids is None else overlapping_chunks(b, segment_ids, chunk, values.type.shape[1])
            out = b.linear_attention(q, k, values, visible, causal=attrs["causal"], cumsum=cumsum, lin_norm=lin_norm)
        return unchunked(b, out, t)

    return gated(b, x, p, attend, cheap=2 * (use_local + use_global), **attrs)


def _cost_flash(
    ins: Types, outs: Types, *, chunk: int, use_local: bool, use_global: bool, cumsum: str, **attrs: Any
) -> Cost:
    x = ins[0]
    assert x is not None
    cost = cost_gated(ins, outs, chunk=chunk if use_local else None, linear=use_global, **attrs)
    return replace(cost, steps=-(-x.sizes[1] // chunk)) if use_global and cumsum == "scan" else cost


def _flash_samples() -> tuple[Any, ...]:
    small: dict[str, Any] = {"key_dim": 4, "chunk": 3, "cumsum": "native"}
    return (
        sample("f32[2, 7, 4]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **small),
        sample("f32[2, 7, 4]", "i32[2, 7]", **{**small, "causal": False, "lin_norm": "none", "norm": "scale_norm"}),
        sample("f32[1, 6, 4]", **{**small, "cumsum": "scan", "lin_norm": "chunk", "qk_scale": "none"}),
        sample("f32[1, 5, 4]", **{**small, "cumsum": "matmul", "causal": False, "qk_scale": "sqrt_key"}),
        sample("f32[1, 5, 4]", **{**small, "use_global": False, "qk_scale": "max_len", "max_len": 16}),
        sample("f32[1, 5, 4]", "i32[1, 5]", **{**small, "use_local": False}),
        sample("f32[1, 2, 4]", **{**small, "chunk": 512, "expansion": 1}),
        sample("f32[1, 0, 4]", **small),
    )


flash = define_op(
    OpDef(
        "flash",
        ("x", "segment_ids?"),
        _infer_flash,
        _ref_flash,
        _cost_flash,
        _flash_samples(),
        attrs={
            **GATED,
            "chunk": integer(AUTO, least=1, auto=True, doc="tokens that attend to each other quadratically"),
            "cumsum": CUMSUM,
            "lin_norm": LIN_NORM,
            "qk_scale": QK_SCALE,
            "use_local": flag(True, doc="quadratic attention within chunks"),
            "use_global": flag(True, doc="linear attention between chunks"),
            "max_len": integer(8192, least=1, doc="the divisor of qk_scale = max_len"),
        },
        decompose=_decompose_flash,
        params=_params_flash,
        scope="layers",
        doc="gated attention unit with mixed chunk attention (Code 8)",
    )
)
