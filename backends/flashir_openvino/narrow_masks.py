"""narrow-masks: compute sums by a mask in the narrow type that their result has."""

from __future__ import annotations

from dataclasses import dataclass

from flashir.ir.builder import Builder
from flashir.ir.graph import Graph, Node, Value
from flashir.ir.types import DType
from flashir.transforms.pipeline import Pass
from flashir.transforms.rewriter import rewrite

NARROW = (DType.BF16, DType.F16)


@dataclass(frozen=True)
class NarrowMasks(Pass):
    """`cast(matmul(cast(%mask) {f32}, cast(%x) {f32})) {bf16}` -> `matmul(cast(%mask) {bf16}, %x)`

    %mask is bool and %x bf16. Reshapes of %x and of the result may be in between. Products add up in float32 also in
    the narrow type, where zeros and ones are exact, so the results are the same numbers.
    """

    name = "narrow-masks"

    def apply(self, graph: Graph) -> Graph:
        """Rewrite every such sum, as by strategy `matmul` of a cumulative sum."""
        return rewrite(graph, narrow_mask)


def narrow_mask(b: Builder, node: Node) -> Value | None:
    """Compute the product of a mask in the type that its result is cast to."""
    dtype = node.attrs.get("dtype")
    if node.op != "cast" or dtype not in NARROW:
        return None
    product = b.producer(_behind_reshape(b, node.operands[0]))
    if product is None or product.op != "matmul":
        return None
    cast_mask, cast_terms = (b.producer(_behind_reshape(b, value)) for value in product.operands)
    if not (cast_mask and cast_terms and cast_mask.op == cast_terms.op == "cast"):
        return None
    mask, terms = cast_mask.operands[0], cast_terms.operands[0]
    if mask.type.dtype is not DType.BOOL or terms.type.dtype is not dtype:
        return None
    left, right = (value.type.shape for value in product.operands)
    narrow = b.insert(
        "matmul", [b.reshape(b.cast(mask, dtype=dtype), shape=left), b.reshape(terms, shape=right)], product.attrs
    )
    return b.reshape(narrow[0], shape=node.output.type.shape)


def _behind_reshape(b: Builder, value: Value) -> Value:
    """What a reshape reads, or the value itself."""
    node = b.producer(value)
    return node.operands[0] if node is not None and node.op == "reshape" else value
