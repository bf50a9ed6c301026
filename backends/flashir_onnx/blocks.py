"""Block-quantised matrices of 8 or 4 bits for MatMulNBits of ONNX Runtime, and lookups of 8-bit rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, parser

from flashir.backends.protocols import Array
from flashir_onnx import contrib

BLOCKS = (128, 64, 32, 16)
"""Block sizes, in weights per scale. Longer blocks are hardly faster; shorter ones are slower and need more scales."""

LEVELS = 127
"""A number of 8 bits is in -LEVELS .. LEVELS."""

NIBBLE = 4
"""The bits of half a byte."""

SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""The scales of 4-bit blocks to choose from, relative to the one for the largest weight. Large weights are clipped."""

INT8 = 4
"""The `accuracy_level` of MatMulNBits that also rounds the input to 8 bits, per row and block."""

ROWS = parser.parse_function("""
<domain: "flashir", opset_import: ["" : 17]>
rows <k> (blocks, scales, ids) => (x)
{
    whole = Gather (blocks, ids)
    number = Cast <to = 1> (whole)
    middle = Constant <value_float = 128.0> ()
    centred = Sub (number, middle)
    scale = Gather (scales, ids)
    last = Constant <value_ints = [-1]> ()
    spread = Unsqueeze (scale, last)
    parts = Mul (centred, spread)
    before = Shape (ids)
    after = Shape <start = 1> (blocks)
    width = ReduceProd <keepdims = 1> (after)
    shape = Concat <axis = 0> (before, width)
    whole_rows = Reshape <allowzero = 1> (parts, shape)
    first = Constant <value_ints = [0]> ()
    end = Constant <value_ints : ints = @k> ()
    x = Slice (whole_rows, first, end, last)
}
""")
"""The rows [.., k] of a block-quantised table at ids [..]."""


@dataclass(frozen=True)
class Blocks:
    """A matrix w [n, k] in blocks along its rows: w = (whole - 2^(bits - 1)) * scales.

    Args:
        stored: uint8 [n, blocks, block * bits / 8]. With 4 bits, a byte holds two numbers, the first in its low half.
            The last block of a row is padded with zeros.
        scales: float32 [n, blocks].
        k: the length of a row.
        bits: 8 or 4.
    """

    stored: Array
    scales: Array
    k: int
    bits: int = 8

    @classmethod
    def of(cls, matrix: Array, bits: int = 8, blocks: Sequence[int] = BLOCKS) -> Blocks:
        """Quantise a matrix [n, k] with the block size that gives the smallest result.

        With 8 bits, the error of a weight is at most half of the scale of its block. With 4 bits, the scale of a block
        is the one of `SHRUNK` with the least squared error.
        """
        n, k = matrix.shape
        block = min(blocks, key=lambda block: -(-k // block) * (block * bits + 32))  # bits of a row with its scales
        parts = np.zeros((n, -(-k // block) * block), np.float32)
        parts[:, :k] = matrix
        parts = parts.reshape(n, -1, block)
        middle = 1 << (bits - 1)
        whole = np.abs(parts).max(axis=-1) / np.float32(middle - 1)
        best, scales = np.full(whole.shape, np.inf, np.float32), whole
        for share in SHRUNK if bits < 8 else ():
            tried = whole * np.float32(share)
            error = np.square(parts - rounded(parts, tried, middle - 1) * tried[..., None]).sum(axis=-1)
            scales = np.where(error < best, tried, scales)
            best = np.minimum(error, best)
        numbers = (rounded(parts, scales, middle - 1) + middle).astype(np.uint8)
        return cls(numbers if bits == 8 else numbers[..., ::2] | numbers[..., 1::2] << 4, scales, k, bits)

    @property
    def block(self) -> int:
        """The block size."""
        return int(self.stored.shape[2]) * 8 // self.bits

    def named(self, name: str) -> dict[str, Array]:
        """The initializers that replace the weight of this name."""
        return {f"{name}/blocks": self.stored, f"{name}/scales": self.scales}


def rounded(parts: Array, scales: Array, levels: int) -> Array:
    """The nearest whole numbers in -levels .. levels, for a scale a block. Tiny scales are inexact."""
    spread = scales[..., None]
    shares = np.divide(parts, spread, out=np.zeros_like(parts), where=spread > 0)
    return np.clip(np.rint(shares, out=shares), -levels, levels, out=shares)


def unpacked(stored: Array, scales: Array, bits: int) -> Array:
    """The floats [n, blocks, block] of a block-quantised matrix, including padding."""
    if bits == NIBBLE:
        stored = np.stack([stored & 15, stored >> 4], axis=-1).reshape(*stored.shape[:-1], -1)
    return np.asarray((stored.astype(np.float32) - (1 << (bits - 1))) * scales[..., None], np.float32)


def in_blocks(flat: ModelProto, tables: Mapping[str, Blocks]) -> ModelProto:
    """A copy of a model without functions, with products and lookups of these weights block-quantised."""
    changed = ModelProto()
    changed.CopyFrom(flat)
    _rewrite(changed.graph, tables)
    known = {opset.domain: opset.version for opset in changed.opset_import}
    rows = changed.functions.add()
    rows.CopyFrom(ROWS)
    rows.opset_import[0].version = known[""]
    for domain in {contrib.DOMAIN, ROWS.domain} - known.keys():
        changed.opset_import.append(helper.make_opsetid(domain, 1))
    return changed


def _rewrite(graph: GraphProto, tables: Mapping[str, Blocks]) -> None:
    """Rewrite a graph and its loop bodies in place."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rewrite(attribute.g, tables)
        graph.node.extend(_replaced(node, tables))


def _replaced(node: NodeProto, tables: Mapping[str, Blocks]) -> Iterator[NodeProto]:
    """The replacement of a node. The cast, which ONNX Runtime drops, gives the tools of ONNX the type of a product."""
    match node.op_type, list(node.input):
        case "MatMul" | "Gemm", [x, weight, *bias] if weight in tables:
            unseen = f"{node.output[0]}/product"
            yield product(x, weight, tables[weight], unseen, *bias)
            yield helper.make_node("Cast", [unseen], node.output, name=node.name, to=TensorProto.FLOAT)
        case "Gather", [table, ids] if table in tables:
            inputs = [*tables[table].named(table), ids]
            yield helper.make_node("rows", inputs, node.output, name=node.name, domain=ROWS.domain, k=[tables[table].k])
        case _:
            yield node


def product(x: str, weight: str, table: Blocks, result: str, *bias: str) -> NodeProto:
    """`result = MatMulNBits(x, weight/blocks, weight/scales)`, with an optional bias."""
    inputs = [x, *table.named(weight), *(["", "", *bias] if bias else [])]
    return helper.make_node(
        "MatMulNBits", inputs, [result], name=result, domain=contrib.DOMAIN,
        K=table.k, N=len(table.stored), bits=table.bits, block_size=table.block, accuracy_level=INT8,
    )  # fmt: skip
