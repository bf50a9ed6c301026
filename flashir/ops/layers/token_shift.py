"""token_shift: half of the channels of a token come from the token before it; and a norm followed by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir.builder import Builder
from flashir.ir.cost import moved
from flashir.ir.graph import Value
from flashir.ir.op import OpDef, define_op, flag, sample
from flashir.ir.streaming import States, StreamingRule
from flashir.ir.types import TensorType
from flashir.ops.attention.documents import are_tokens, check_documents, document_numbers, ref_numbers
from flashir.ops.decode.context import DecodeContext, column, equal, take_rows
from flashir.ops.functions.norm import EPS
from flashir.ops.layers.blocks import Params, apply_norm, check_tokens, ref_norm, width_of

TOKEN_SHIFT = flag(False, doc="the first half of the channels comes from the previous token")


def _infer_shift(x: TensorType, documents: TensorType | None = None) -> TensorType:
    check_tokens(x)
    check_documents(documents, *x.shape[:2])
    return x


def _ref_shift(x: Any, documents: Any = None) -> Any:
    half = x.shape[-1] // 2
    out = np.array(x)
    out[:, 1:, :half], out[:, :1, :half] = x[:, :-1, :half], 0
    if documents is not None:
        numbers = ref_numbers(documents, x.shape[1])
        out[:, 1:, :half][(numbers[:, 1:] != numbers[:, :-1]) | (numbers[:, 1:] == 0)] = 0
    return out


def _decompose_shift(b: Builder, x: Value, documents: Value | None = None) -> Value:
    late, now = _halves(b, x)
    length = x.type.shape[1]
    late = b.slice(b.pad(late, axis=1, before=1), axis=1, stop=length)
    if documents is not None:  # the first token of a document has no token before it
        numbers = document_numbers(b, documents, length)
        before = b.slice(b.pad(numbers, axis=1, before=1), axis=1, stop=length)
        late = b.select(column(b, b.logical_and(are_tokens(b, numbers), equal(b, numbers, before))), late, 0.0)
    return b.concat(late, now, axis=-1)


def _halves(b: Builder, x: Value) -> tuple[Value, ...]:
    d = width_of(x.type)
    return b.results("split", x, axis=-1, sizes=(d // 2, d - d // 2))


def _shift_after(now: DecodeContext, x: Value) -> States:
    """The state `late`: the first half of the last token of each row, [b, 1, d / 2]."""
    return {"late": take_rows(now.b, _halves(now.b, x)[0], now.b.sub(column(now.b, now.seen), 1))}


def _shift_step(now: DecodeContext, states: States, x: Value) -> tuple[Value, States]:
    b, t = now.b, now.length
    late, own = _halves(b, x)
    both = b.concat(states["late"], late, axis=1)
    shifted = b.concat(b.slice(both, axis=1, stop=t), own, axis=-1)
    last = b.slice(both, axis=1, start=t, stop=t + 1) if now.own is None else take_rows(b, both, column(b, now.own))
    return shifted, {"late": last}


token_shift = define_op(
    OpDef(
        "token_shift",
        ("x", "documents?"),
        infer=_infer_shift,
        ref=_ref_shift,
        cost=moved,
        samples=(
            *(sample("f32[2, 3, 4]"), sample("f32[1, 2, 5]"), sample("f32[1, 0, 4]")),
            *(sample("f32[2, 9, 4]", "i32[2, 8]", high=3), sample("f32[2, 9, 5]", "bool[2, 9]")),
        ),
        decompose=_decompose_shift,
        stream=StreamingRule(_shift_step, _shift_after),
        doc="[b, t, d] with the first half of the channels shifted by one token; zeros at the start of a document",
    )
)


def norm_and_shift(
    b: Builder,
    x: Value,
    p: Params,
    documents: Value | None,
    *,
    norm: str,
    token_shift: bool,
    eps: float = EPS,
    clamp: bool = False,
) -> Value:
    """What a layer reads: the norm of x with the parameters under `norm.`, shifted with `token_shift`."""
    normed = apply_norm(b, x, p, norm, "norm.", eps, clamp)
    return b.token_shift(normed, documents) if token_shift else normed


def ref_norm_and_shift(
    x: Any, p: Params, documents: Any, *, norm: str, token_shift: bool, eps: float = EPS, clamp: bool = False
) -> Any:
    """`norm_and_shift` in numpy."""
    normed = ref_norm(x, p, norm, "norm.", eps, clamp)
    return _ref_shift(normed, documents) if token_shift else normed
