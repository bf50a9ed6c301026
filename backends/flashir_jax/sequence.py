"""Linear attention over a sequence that lies in parts on several devices: what they exchange are states, s x e.

A part has whole chunks. A device sums up the states of its own chunks as one device would, and sends their total alone;
to what its queries find there it adds what they find in the totals of the devices before.
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
"""[b, t, ..] and [b, g, ..]: rows over the axes of rows, tokens or chunks over the other."""


def attend(mesh: Mesh, node: Node, run: Run, *operands: Any) -> Any:
    """`linear_attention`, causal and without a mask (Eq. 8). q, k [b, g, n, s], v [b, g, n, e] -> [b, g, n, e]

    Args:
        mesh: with the axes of `flashir_jax.mesh`.
        node: the op.
        run: a graph and its inputs -> its results.
        operands: q, k, v of the whole mesh.

    Raises:
        InputError: the chunks cannot be dealt out evenly.
    """
    chunks, n = operands[0].shape[1:3]
    count = mesh.shape[SEQUENCE]
    if chunks % count:
        raise InputError(
            f"{chunks} chunks of {n} tokens cannot be dealt out evenly to {count} devices",
            where="jax",
            hint=f"use a length that is a multiple of {count * n}",
        )
    part = partial(_part, node, run)
    return jax.shard_map(part, mesh=mesh, in_specs=(TOKENS,) * 3, out_specs=TOKENS, check_vma=False)(*operands)


def _part(node: Node, run: Run, q: Any, k: Any, v: Any) -> Any:
    """What one device does: chunks are counted, and their states summed up, from the first of all."""
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
    """The op on one device, down to primitives, by the strategy that was chosen for it."""
    b = Builder(node.op)
    types = [value.type.with_shape(shape) for value, shape in zip(node.operands, shapes, strict=True)]
    operands = [b.input(f"x{i}", each) for i, each in enumerate(types)]
    attended = b.insert(node.op, operands, {**node.attrs, "lin_norm": lin_norm})
    return Lowering("jax:cpu").run(b.finish(*attended))
