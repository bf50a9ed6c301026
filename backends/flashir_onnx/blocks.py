"""Matrices of 8 bits in blocks, as MatMulNBits of ONNX Runtime takes them, and tables whose rows are read from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, parser

from flashir_onnx import contrib

Array = npt.NDArray[Any]
BLOCKS = (128, 64, 32, 16)
"""How many numbers may share a scale. Longer blocks are hardly faster; shorter ones take more time, and more scales."""

LEVELS, MIDDLE = 127, 128
"""A number is stored as MIDDLE plus one of -LEVELS .. LEVELS."""

INT8 = 4
"""The `accuracy_level` of MatMulNBits at which what comes in is rounded to 8 bits too, by row and block."""

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
"""Rows [.., k] of a table in blocks at ids [..]."""


@dataclass(frozen=True)
class Blocks:
    """A matrix w [n, k] whose rows are cut into blocks: w = (whole - MIDDLE) * scales.

    Args:
        whole: uint8 [n, blocks, block], of which the last block of a row may end in MIDDLE.
        scales: float32 [n, blocks].
        k: the numbers of a row.
    """

    whole: Array
    scales: Array
    k: int

    @classmethod
    def of(cls, matrix: Array, blocks: Sequence[int] = BLOCKS) -> Blocks:
        """The nearest to a matrix [n, k], in the smallest form that blocks of one of those lengths give it.

        No number is off by more than half of the scale of its block.
        """
        n, k = matrix.shape
        block = min(blocks, key=lambda block: -(-k // block) * (block + 4))  # what a row takes, with its scales
        parts = np.zeros((n, -(-k // block) * block), np.float32)
        parts[:, :k] = matrix
        parts = parts.reshape(n, -1, block)
        scales = np.abs(parts).max(axis=-1) / np.float32(LEVELS)
        np.divide(parts, scales[..., None], out=parts, where=scales[..., None] > 0)
        np.clip(np.rint(parts, out=parts), -LEVELS, LEVELS, out=parts)  # a scale next to 0 is none too exact
        return cls((parts + MIDDLE).astype(np.uint8), scales, k)

    @property
    def block(self) -> int:
        """Numbers of a block."""
        return int(self.whole.shape[2])

    def named(self, name: str) -> dict[str, Array]:
        """The initializers that stand for the weight of that name."""
        return {f"{name}/blocks": self.whole, f"{name}/scales": self.scales}


def in_blocks(flat: ModelProto, tables: Mapping[str, Blocks]) -> ModelProto:
    """A copy of a model without functions, whose products by those weights, and rows of them, are of blocks."""
    changed = ModelProto()
    changed.CopyFrom(flat)
    _rewrite(changed.graph, tables)
    changed.functions.append(ROWS)
    known = {each.domain for each in changed.opset_import}
    for domain in {contrib.DOMAIN, ROWS.domain} - known:
        changed.opset_import.append(helper.make_opsetid(domain, 1))
    return changed


def _rewrite(graph: GraphProto, tables: Mapping[str, Blocks]) -> None:
    """In place, what is in loops too."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rewrite(attribute.g, tables)
        graph.node.extend(_replaced(node, tables))


def _replaced(node: NodeProto, tables: Mapping[str, Blocks]) -> Iterator[NodeProto]:
    """The cast, which ONNX Runtime drops, tells the tools of ONNX what the product is."""
    match node.op_type, list(node.input):
        case "MatMul" | "Gemm", [x, weight, *bias] if weight in tables:
            unseen = f"{node.output[0]}/product"
            yield product(x, weight, tables[weight], unseen, *bias)
            yield helper.make_node("Cast", [unseen], node.output, name=node.name, to=TensorProto.FLOAT)
        case "Gather", [table, ids] if table in tables:
            given = [*tables[table].named(table), ids]
            yield helper.make_node("rows", given, node.output, name=node.name, domain=ROWS.domain, k=[tables[table].k])
        case _:
            yield node


def product(x: str, weight: str, table: Blocks, result: str, *bias: str) -> NodeProto:
    """`result = MatMulNBits(x, weight/blocks, weight/scales)`, and a bias if there is one."""
    given = [x, *table.named(weight), *(["", "", *bias] if bias else [])]
    return helper.make_node(
        "MatMulNBits", given, [result], name=result, domain=contrib.DOMAIN,
        K=table.k, N=len(table.whole), bits=8, block_size=table.block, accuracy_level=INT8,
    )  # fmt: skip
