"""The feed-forward blocks of the transformers: mlp, and its gated form glu (Eq. 1, 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashir.errors import IRError
from flashir.ir.builder import Builder
from flashir.ir.graph import Value
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.op import AttrSpec, OpDef, ParamSpec, define_op, integer, number, sample
from flashir.ir.traits import each_row_alone
from flashir.ir.types import TensorType
from flashir.ops.layers.blocks import Params, apply_norm, check_tokens, matrix, norm_params, ref_norm, width_of
from flashir.ops.layers.multi_head import NORM
from flashir.ops.primitive.elementwise import gelu

FFN: dict[str, AttrSpec] = {
    "expansion": number(4, least=0, doc="h = expansion * d; glu has two thirds of that, and so as many parameters"),
    "expanded": integer(None, least=1, doc="h itself; overrides the expansion"),
    "norm": NORM,
}
SCOPE = "layers/ffn"

Hidden = Callable[[TensorType, float], int]
"""The hidden width h by an expansion."""


def mlp_width(x: TensorType, expansion: float) -> int:
    """h = expansion * d. Raises IRError if it is not a whole number."""
    width = width_of(x) * expansion
    if width != int(width):
        raise IRError(f"expansion {expansion} of width {width_of(x)} gives {width}, which is not a whole number")
    return int(width)


def glu_width(x: TensorType, expansion: float) -> int:
    """h = 2/3 * expansion * d, rounded down: three matrices with the parameters of two (Shazeer 2020)."""
    return int(2 * width_of(x) * expansion / 3)


def _infer(hidden: Hidden) -> Callable[..., TensorType]:
    def infer(x: TensorType, expansion: float, expanded: int | None, **_: Any) -> TensorType:
        check_tokens(x)
        if expanded is not None:
            return x
        if not 1 <= width_of(x) * expansion <= LARGEST_SIZE or not hidden(x, expansion):
            raise IRError(
                f"expansion {expansion} of width {width_of(x)} gives a hidden width of 0, or one that is too large"
            )
        return x

    return infer


def _params(hidden: Hidden, *inner: str) -> Callable[..., dict[str, ParamSpec]]:
    """The parameters: the norm, the inner layers [d, h], and `down` [h, d]."""

    def params(x: TensorType, expansion: float, expanded: int | None, norm: str, **_: Any) -> dict[str, ParamSpec]:
        d, h = width_of(x), hidden(x, expansion) if expanded is None else expanded
        specs = norm_params(norm, d, "norm.")
        for name, shape in (*((name, (d, h)) for name in inner), ("down", (h, d))):
            specs[f"{name}.weight"] = matrix(*shape)
            specs[f"{name}.bias"] = ParamSpec(shape[1:])
        return specs

    return params


def _linear(b: Builder, x: Value, p: Params, name: str) -> Value:
    return b.dense(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _decompose_mlp(b: Builder, x: Value, p: Params, norm: str, **_: Any) -> Value:
    """x + gelu(norm(x) W_up) W_down"""
    up = _linear(b, apply_norm(b, x, p, norm, "norm."), p, "up")
    return b.add(_linear(b, b.gelu(up), p, "down"), x)


def _decompose_glu(b: Builder, x: Value, p: Params, norm: str, **_: Any) -> Value:
    """x + (gelu(norm(x) W_gate) * norm(x) W_up) W_down"""
    h = apply_norm(b, x, p, norm, "norm.")
    gated = b.mul(b.gelu(_linear(b, h, p, "gate")), _linear(b, h, p, "up"))
    return b.add(_linear(b, gated, p, "down"), x)


def _ref_mlp(x: Any, p: Params, norm: str, **_: Any) -> Any:
    hidden = gelu.ref(ref_norm(x, p, norm, "norm.") @ p["up.weight"] + p["up.bias"])
    return x + hidden @ p["down.weight"] + p["down.bias"]


def _ref_glu(x: Any, p: Params, norm: str, **_: Any) -> Any:
    h = ref_norm(x, p, norm, "norm.")
    gate, up = (h @ p[f"{name}.weight"] + p[f"{name}.bias"] for name in ("gate", "up"))
    return x + (gelu.ref(gate) * up) @ p["down.weight"] + p["down.bias"]


_SAMPLES = (
    sample("f32[2, 3, 6]"),
    sample("f32[2, 3, 4]", norm="scale_norm", expansion=2),
    sample("f32[1, 2, 4]", expanded=5),
    sample("f32[1, 0, 4]"),
)

mlp = define_op(
    OpDef(
        "mlp",
        ("x",),
        infer=_infer(mlp_width),
        ref=_ref_mlp,
        cost=None,
        samples=_SAMPLES,
        attrs=FFN,
        decompose=_decompose_mlp,
        params=_params(mlp_width, "up"),
        scope=SCOPE,
        ignores_padding=each_row_alone,
        layer="MLP",
        doc="x + two dense layers of norm(x) with GELU between, h = 4 d",
    )
)

glu = define_op(
    OpDef(
        "glu",
        ("x",),
        infer=_infer(glu_width),
        ref=_ref_glu,
        cost=None,
        samples=_SAMPLES,
        attrs=FFN,
        decompose=_decompose_glu,
        params=_params(glu_width, "gate", "up"),
        scope=SCOPE,
        ignores_padding=each_row_alone,
        layer="GLU",
        doc="x + the gated linear unit of norm(x) with GELU, h = 8 d / 3",
        source="Eq. 1, 2",
    )
)
