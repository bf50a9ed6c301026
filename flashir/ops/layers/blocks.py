"""Blocks that own parameters: embed, positions, norms, unembed; and repeat, which stacks blocks.

`ref` and `decompose` of a block get its parameters in `p` by local name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import InputError, IRError
from flashir.ir.builder import Builder
from flashir.ir.cost import copied, elementwise
from flashir.ir.dims import Dim
from flashir.ir.graph import Attr, Graph, Node, Value
from flashir.ir.limits import MOST_LAYERS
from flashir.ir.op import AttrSpec, OpDef, ParamSpec, define_op, dtype, flag, integer, number, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.traits import Axes, each_row_alone, reads_operands
from flashir.ir.types import DType, TensorType
from flashir.ops.decode.context import DecodeContext
from flashir.ops.functions.norm import CLAMP, EPS, accumulation_dtype, as_dtype, ref_layer, ref_scale
from flashir.ops.functions.position import ref_sinusoid
from flashir.ops.primitive.scan import check_body
from flashir.ops.primitive.shape import rows

WEIGHT_STD = 0.02  # Codes 4, 6 and 8


def matrix(inputs: int, outputs: int) -> ParamSpec:
    """The weight of a projection, [inputs, outputs]."""
    return ParamSpec((inputs, outputs), std=WEIGHT_STD, fan_in=inputs)


def table(rows: int, width: int) -> ParamSpec:
    """A vector for each token or position, [rows, width]. As a tied head it sums over the width."""
    return ParamSpec((rows, width), std=WEIGHT_STD, fan_in=width)


Params = Mapping[str, Any]


def check_tokens(x: TensorType) -> None:
    """Raise IRError unless x is float [b, t, d] with a known d."""
    if x.rank != 3 or not x.dtype.is_float or isinstance(x.shape[-1], Dim):
        raise IRError(f"the operand must be float [b, t, d] with d known, got {x}")


def _same_tokens(x: TensorType, *_: TensorType, **__: Attr) -> TensorType:
    check_tokens(x)
    return x


def width_of(x: TensorType) -> int:
    """d of [b, t, d]."""
    width = x.shape[-1]
    assert isinstance(width, int)
    return width


def _infer_embed(ids: TensorType, vocab: int, dim: int, dtype: DType, **_: Attr) -> TensorType:
    if ids.dtype not in (DType.I32, DType.I64) or ids.rank != 2:
        raise IRError(f"ids must be whole numbers [b, t], got {ids}")
    return TensorType(dtype, (*ids.shape, dim))


embed = define_op(
    OpDef(
        "embed",
        ("ids",),
        infer=_infer_embed,
        ref=lambda ids, p, **_: rows(p["weight"], ids),
        cost=copied,
        samples=(sample("i32[2, 3]", vocab=5, dim=4),),
        attrs={"vocab": integer(least=1), "dim": integer(least=1), "dtype": dtype(DType.F32)},
        decompose=lambda b, ids, p, **_: b.gather(p["weight"], ids),
        params=lambda ids, vocab, dim, **_: {"weight": table(vocab, dim)},
        scope="embed",
        rows=lambda types, attrs: (0, attrs["vocab"]),
        ignores_padding=each_row_alone,
        doc="token embedding, [b, t] -> [b, t, d]",
    )
)


def _ref_scaled_sin(x: Any, p: Params, **_: Attr) -> Any:
    sin, cos = ref_sinusoid(x.shape[1], x.shape[2] // 2, DType.F64)
    return x + np.concatenate([sin, cos], -1) * p["scale"]


def _decompose_scaled_sin(b: Builder, x: Value, p: Params, **_: Attr) -> Value:
    half = width_of(x.type) // 2
    return _plus_sines(
        b, x, p, b.results("sinusoid", length=x.type.shape[1], half=half, dtype=accumulation_dtype(x.type.dtype))
    )


def _step_scaled_sin(now: DecodeContext, states: States, x: Value, p: Params, **_: Attr) -> tuple[Value, States]:
    half = width_of(x.type) // 2
    tables = now.b.results("sinusoid_at", now.positions(), half=half, dtype=accumulation_dtype(x.type.dtype))
    return _plus_sines(now.b, x, p, tables), {}


def _plus_sines(b: Builder, x: Value, p: Params, tables: Sequence[Value]) -> Value:
    h = as_dtype(b, x, accumulation_dtype(x.type.dtype))
    sin, cos = tables
    position = b.mul(b.concat(sin, cos, axis=-1), as_dtype(b, p["scale"], h.type.dtype))
    return as_dtype(b, b.add(h, position), x.type.dtype)


def _infer_scaled_sin(x: TensorType, **_: Attr) -> TensorType:
    check_tokens(x)
    if width_of(x) % 2:
        raise IRError(f"scaled_sin needs an even width, got {x}")
    return x


scaled_sin = define_op(
    OpDef(
        "scaled_sin",
        ("x",),
        infer=_infer_scaled_sin,
        ref=_ref_scaled_sin,
        cost=elementwise(2),
        samples=(sample("f32[2, 3, 8]"),),
        decompose=_decompose_scaled_sin,
        params=lambda x, **_: {"scale": ParamSpec((), mean=width_of(x) ** -0.5)},
        stream=StreamingRule(_step_scaled_sin),
        scope="pos",
        ignores_padding=each_row_alone,
        doc="x plus sinusoidal positions times a learned scale",
        source="Code 2",
    )
)


def _infer_learned(x: TensorType, max_len: int, **_: Any) -> TensorType:
    check_tokens(x)
    if isinstance(x.shape[1], int) and x.shape[1] > max_len:
        raise IRError(f"there are max_len = {max_len} learned positions, the sequence has {x.shape[1]} tokens: {x}")
    return x


def _ref_learned(x: Any, p: Params, max_len: int, **_: Any) -> Any:
    if x.shape[1] > max_len:
        raise InputError(f"a length of {x.shape[1]} exceeds the {max_len} learned positions")
    return x + p["weight"][: x.shape[1]]


def _step_learned(
    now: DecodeContext, states: States, x: Value, p: Params, max_len: int, **_: Attr
) -> tuple[Value, States]:
    table, places = p["weight"], now.positions()
    if now.own is not None:  # padding may be beyond the table
        places = now.b.minimum(places, max_len - 1)
    return now.b.add(x, now.b.gather(table, places)), {}


learned_position = define_op(
    OpDef(
        "learned_position",
        ("x",),
        infer=_infer_learned,
        ref=_ref_learned,
        cost=elementwise(1),
        samples=(sample("f32[2, 3, 4]", max_len=5), sample("f32[2, 0, 4]", max_len=1)),
        attrs={"max_len": integer(1024, least=1, doc="learned positions, and so the longest sequence")},
        decompose=lambda b, x, p, **_: b.add(x, b.gather(p["weight"], b.iota(length=x.type.shape[1]))),
        params=lambda x, max_len, **_: {"weight": table(max_len, width_of(x))},
        stream=StreamingRule(_step_learned),
        scope="pos",
        doc="x plus a learned vector for each position",
        source="Gehring et al. 2017",
    )
)


def norm_params(norm: str, width: int, prefix: str = "", *, is_last: bool = False) -> dict[str, ParamSpec]:
    """The parameters of a norm; the norm `none` has no parameters.

    The last norm of a model feeds a head that sums over the width. With a tied head its result is mostly the embedding
    that it began as, so a scale of 1 would make a token's own logit sqrt(width) at the start.
    """
    if norm == "none":
        return {}
    scale = ParamSpec(() if norm == "scale_norm" else (width,), mean=1.0, fan_in=width if is_last else 0)
    return {f"{prefix}scale": scale, **({} if norm == "scale_norm" else {f"{prefix}bias": ParamSpec((width,))})}


def apply_norm(
    b: Builder, x: Value, p: Params, norm: str, prefix: str = "", eps: float = EPS, clamp: bool = False
) -> Value:
    """Normalise x, with the parameters under `prefix`. The norm `none` returns x."""
    if norm == "none":
        return x
    if norm == "scale_norm":
        return b.scale_normalization(x, p[f"{prefix}scale"], eps=eps, clamp=clamp)
    return b.layer_normalization(x, p[f"{prefix}scale"], p[f"{prefix}bias"], eps=eps)


def ref_norm(x: Any, p: Params, norm: str, prefix: str = "", eps: float = EPS, clamp: bool = False) -> Any:
    """`apply_norm` in numpy."""
    if norm == "none":
        return x
    if norm == "scale_norm":
        return ref_scale(x, p[f"{prefix}scale"], eps, clamp)
    return ref_layer(x, p[f"{prefix}scale"], p[f"{prefix}bias"], eps)


def _define_norm(norm: str, doc: str, **more: AttrSpec) -> OpDef:
    return define_op(
        OpDef(
            norm,
            ("x",),
            infer=_same_tokens,
            ref=lambda x, p, eps, clamp=False, **_: ref_norm(x, p, norm, eps=eps, clamp=clamp),
            cost=elementwise(8),
            samples=(sample("f32[2, 3, 8]"), *(sample("f32[2, 3, 8]", eps=1.0, **{name: True}) for name in more)),
            attrs={"eps": number(EPS, least=0), **more},
            decompose=lambda b, x, p, eps, clamp=False, **_: apply_norm(b, x, p, norm, eps=eps, clamp=clamp),
            params=lambda x, **_: norm_params(norm, width_of(x), is_last=True),
            scope="final_norm",
            ignores_padding=each_row_alone,
            doc=doc,
            source="Code 5",
        )
    )


layer_norm = _define_norm("layer_norm", "LayerNorm with its own scale and bias")
scale_norm = _define_norm("scale_norm", "ScaleNorm with its own scale", clamp=CLAMP)


def _infer_unembed(x: TensorType, vocab: int, **_: Any) -> TensorType:
    check_tokens(x)
    return TensorType(DType.F32, (*x.shape[:-1], vocab))


def _vocab_of_embed(attrs: Mapping[str, Attr], before: tuple[Node, ...]) -> dict[str, Attr]:
    if "vocab" in attrs:
        return {}
    vocab = next((node.attrs["vocab"] for node in before if node.op == "embed"), None)
    return {} if vocab is None else {"vocab": vocab}


def _params_unembed(x: TensorType, vocab: int, tied: bool, bias: bool, **_: Any) -> dict[str, ParamSpec]:
    weight = table(vocab, width_of(x)) if tied else matrix(width_of(x), vocab)
    return {"weight": weight, **({"bias": ParamSpec((vocab,), by_token=True)} if bias else {})}


def _decompose_unembed(b: Builder, x: Value, p: Params, tied: bool, bias: bool, **_: Any) -> Value:
    if bias and not tied:
        return as_dtype(b, b.dense(x, p["weight"], p["bias"]), DType.F32)
    logits = as_dtype(b, b.matmul(x, p["weight"], transpose_y=tied), DType.F32)
    return b.add(logits, as_dtype(b, p["bias"], DType.F32)) if bias else logits


def _ref_unembed(x: Any, p: Params, tied: bool, bias: bool, **_: Any) -> Any:
    return x @ (p["weight"].T if tied else p["weight"]) + (p["bias"] if bias else 0)


unembed = define_op(
    OpDef(
        "unembed",
        ("x",),
        infer=_infer_unembed,
        ref=_ref_unembed,
        cost=None,
        samples=tuple(
            sample("f32[2, 3, 4]", vocab=5, tied=tied, bias=bias) for bias in (False, True) for tied in (True, False)
        ),
        attrs={
            "vocab": integer(least=1),
            "tied": flag(True, doc="use the transposed weight of the embedding"),
            "bias": flag(False, doc="add a bias per token of the vocabulary"),
        },
        decompose=_decompose_unembed,
        params=_params_unembed,
        scope=lambda attrs: "embed" if attrs["tied"] else "unembed",
        inherit=_vocab_of_embed,
        ignores_padding=each_row_alone,
        doc="logits in float32, [b, t, d] -> [b, t, vocab]",
    )
)


def _infer_repeat(x: TensorType, *invariants: TensorType, body: Graph, times: int) -> TensorType:
    check_body("repeat", body, [x, *invariants], [x])
    if len(body.outputs) != 1:
        raise IRError(f"the body of repeat must yield one value, it yields {len(body.outputs)}")
    return x


def _ref_repeat(x: Any, *invariants: Any, body: Callable[..., Any], times: int) -> Any:
    for index in range(times):
        (x,) = body(x, *invariants, index=index)
    return x


repeat = define_op(
    OpDef(
        "repeat",
        ("x", "invariants*"),
        infer=_infer_repeat,
        ref=_ref_repeat,
        cost=lambda ins, outs, body, times: body.times(times),
        samples=(),
        attrs={"times": integer(least=0, most=MOST_LAYERS)},
        region=lambda types, attrs: types,
        rounds=lambda types, attrs: attrs["times"],
        axes=Axes.MIXED,
        gradient=reads_operands,
        ignores_padding=each_row_alone,
        doc="stacked layers, each with its own parameters: x = body(x, *invariants), `times` times",
        example="""model @stack(%x: f32[B, T, 64]) -> f32[B, T, 64] {
  %y = repeat(%x) {times = 12} (%h) {
    %o = flash(%h) {key_dim = 16}
    yield %o
  }
  return %y
}
""",
    )
)
