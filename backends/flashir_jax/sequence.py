"""Sequence-parallel linear attention: devices exchange only their s x e states.

Each device has whole chunks. It sums the states of its own chunks as usual, and sends only their total. To its own
result it adds that of its queries with the totals of the devices before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from flashir.backends.lowering import Lowering
from flashir.errors import InputError
from flashir.ir import Builder, Graph, Node
from flashir.ir.types import Shape
from flashir_jax.mesh import DATA, SEQUENCE, SHARDS
from flashir_jax.types import accumulator

Run = Callable[[Graph, Sequence[Any]], tuple[Any, ...]]
TOKENS = PartitionSpec((DATA, SHARDS), SEQUENCE)
"""Sharding of [b, t, ..] and [b, g, ..]: rows over the axes of rows, tokens or chunks over the sequence axis."""


def attend(mesh: Mesh, node: Node, run: Run, *operands: Any) -> Any:
    """Causal `linear_attention` without a mask (Eq. 8). q, k [b, g, n, s], v [b, g, n, e] -> [b, g, n, e].

    Args:
        mesh: a mesh with the axes of `flashir_jax.mesh`.
        node: the node of the op.
        run: a graph and its inputs -> its results.
        operands: q, k, v of the whole mesh.

    Raises:
        InputError: the chunks cannot be sharded evenly.
    """
    chunks, n = operands[0].shape[1:3]
    count = mesh.shape[SEQUENCE]
    if chunks % count:
        raise InputError(
            f"{chunks} chunks of {n} tokens cannot be sharded evenly over {count} devices",
            where="jax",
            hint=f"use a length that is a multiple of {count * n}",
        )
    part = partial(_part, node, run)
    return jax.shard_map(part, mesh=mesh, in_specs=(TOKENS,) * 3, out_specs=TOKENS, check_vma=False)(*operands)


def _part(node: Node, run: Run, q: Any, k: Any, v: Any) -> Any:
    """The work of one device. Chunk numbers and states include those of earlier devices."""
    norm, place, (chunks, n) = node.attrs["lin_norm"], lax.axis_index(SEQUENCE), q.shape[1:3]
    if norm != "none":
        k = k / n
    if norm == "chunk_mean":
        seen = jnp.maximum(place * chunks + jnp.arange(chunks), 1)
        q = (q / seen[:, None, None]).astype(q.dtype)
    wide = accumulator(v.dtype)
    total = jnp.einsum("bgns,bgne->bse", k, v, preferred_element_type=wide)
    totals = lax.all_gather(total, SEQUENCE)
    earlier = (jnp.arange(len(totals)) < place).astype(wide)
    before = jnp.einsum("p,pbse->bse", earlier, totals).astype(q.dtype)
    own = summed(node, tuple(x.shape for x in (q, k, v)), "none")
    return run(own, (q, k, v))[0] + jnp.einsum("bgns,bse->bgne", q, before)


@cache
def summed(node: Node, shapes: tuple[Shape, ...], lin_norm: str) -> Graph:
    """The op on one device, lowered to primitives with its chosen strategy."""
    b = Builder(node.op)
    types = [value.type.with_shape(shape) for value, shape in zip(node.operands, shapes, strict=True)]
    operands = [b.input(f"x{i}", type_) for i, type_ in enumerate(types)]
    attended = b.insert(node.op, operands, {**node.attrs, "lin_norm": lin_norm})
    return Lowering("jax:cpu").run(b.finish(*attended))
