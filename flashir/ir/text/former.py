"""Ops that texts of earlier versions name, and what they are now. Only texts may name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flashir.ir.builder import Builder
from flashir.ir.graph import AUTO, Value

Operands = Mapping[str, Value | None]
Now = Callable[[Builder, Operands, Mapping[str, Any]], tuple[str, list[Value | None], dict[str, Any]]]


@dataclass(frozen=True)
class Former:
    """An op that was.

    Args:
        operands: their names, in order.
        now: builder, operands by name and attributes -> the op that it is now, its operands and attributes.
    """

    operands: tuple[str, ...]
    now: Now


def _recurrence(operands: Operands, attrs: dict[str, Any]) -> tuple[str, list[Value | None], dict[str, Any]]:
    names = ("v", "quad_q", "quad_k", "bias", "lin_q", "lin_k", "decay", "segment_ids", "documents")
    return "chunked_recurrence", [operands.get(name) for name in names], attrs


def _chunks(b: Builder, operands: Operands, attrs: Mapping[str, Any]) -> Any:
    return _recurrence(operands, dict(attrs))


def _heads(b: Builder, operands: Operands, attrs: Mapping[str, Any]) -> Any:
    settings = {**attrs, "kernel": "softmax"}
    k, q = operands.get("k"), b.mul(operands.get("q"), settings.pop("scale", 1.0))
    return _recurrence({**operands, "quad_q": q, "quad_k": k, "lin_q": q, "lin_k": k}, settings)


def _tokens(b: Builder, operands: Operands, attrs: Mapping[str, Any]) -> Any:
    settings = {"tile": AUTO, **attrs, "lin_norm": "none"}
    return _recurrence({**operands, "lin_q": operands.get("q"), "lin_k": operands.get("k")}, settings)


_HEADS = ("q", "k", "v", "documents?")

FORMER = {
    "mixed_chunk_attention": Former(
        ("quad_q", "quad_k", "lin_q", "lin_k", "v", "bias", "segment_ids?", "documents?"), _chunks
    ),
    "partial_chunk_attention": Former(
        ("v", "quad_q?", "quad_k?", "bias?", "lin_q?", "lin_k?", "segment_ids?", "documents?"), _chunks
    ),
    "mixed_head_attention": Former(_HEADS, _heads),
    "token_linear_attention": Former(_HEADS, _tokens),
}
"""By name."""
