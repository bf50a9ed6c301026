"""mixed_chunk_attention (Code 8) as one TPU kernel: chunks in order, with the s x e state in VMEM in float32.

Axes: b batch, t length, g chunks, n and m positions within a chunk, s key, e expanded. The grid is (b, tiles of e, g),
sequential in g. Neither the scores [n, n] nor the states [s, e] of the chunks are written to HBM.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flashir_jax.pallas.bodies import Spec, backward, backward_of_queries, forward
from flashir_jax.pallas.call import Blocks

Operands = tuple[Any, ...]
"""quad_q, quad_k, lin_q, lin_k [b, t, s], v [b, t, e], bias [n, n]."""


def mixed_chunk_attention(
    quad_q: Any, quad_k: Any, lin_q: Any, lin_k: Any, v: Any, bias: Any, *, chunk: int, causal: bool, lin_norm: str,
    interpret: bool = False,
) -> Any:  # fmt: skip
    """relu2(quad_q quad_k^T + bias) v within chunks, plus lin_q (sum of lin_k^T v over the chunks it sees).

    Args:
        quad_q, quad_k, lin_q, lin_k: float32 or bfloat16 [b, t, s].
        v: the same dtype, [b, t, e].
        bias: [chunk, chunk].
        chunk, causal, lin_norm: the attributes of the op.
        interpret: run slowly on any device, for tests.

    Returns:
        [b, t, e], differentiable in every operand. An incomplete last chunk is padded with zeros, which add nothing.
    """
    length = v.shape[1]
    padded = -(-length // chunk) * chunk
    spec = Spec(chunk, causal, lin_norm, padded // chunk, interpret)
    if isinstance(v.size, int) and not v.size:
        return jnp.zeros_like(v)
    operands = [quad_q, quad_k, lin_q, lin_k, v]
    if padded != length:
        operands = [jnp.pad(x, ((0, 0), (0, padded - length), (0, 0))) for x in operands]
    out = _attend(spec, *operands, bias)
    return out if padded == length else jax.lax.slice_in_dim(out, 0, length, axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: Spec, *operands: Any) -> Any:
    quad_q, quad_k, lin_q, lin_k, v, bias = operands
    blocks = Blocks(spec, v.shape, quad_q.shape[-1], v.dtype)
    ins = [("key", x) for x in (quad_q, quad_k, lin_q)]
    carried = [("key", lin_k)] if spec.causal else [("state", _total(spec, lin_k, v))]
    (out,) = blocks.call(forward, [*ins, *carried, ("value", v), ("bias", bias)], ["value"], carry=spec.causal)
    return out


def _attend_forward(spec: Spec, *operands: Any) -> tuple[Any, Operands]:
    return _attend(spec, *operands), operands


def _attend_backward(spec: Spec, operands: Operands, d_out: Any) -> Operands:
    """Chunks in reverse order, with the gradient of the state as the carry."""
    quad_q, quad_k, lin_q, lin_k, v, bias = operands
    blocks = Blocks(spec, v.shape, quad_q.shape[-1], v.dtype)
    seen = ("key", lin_k) if spec.causal else ("state", _total(spec, lin_k, v))
    (d_lin_q,) = blocks.call(
        backward_of_queries, [seen, ("value", v), ("value", d_out)], ["key_part"], carry=spec.causal
    )
    later = ("key", lin_q) if spec.causal else ("state", _total(spec, lin_q, d_out))
    ins = [("key", quad_q), ("key", quad_k), ("key", lin_k), later, ("value", v), ("value", d_out), ("bias", bias)]
    outs = ["key_part", "key_part", "key_part", "value", "bias_part"]
    backwards = replace(blocks, reverse=True)
    d_quad_q, d_quad_k, d_lin_k, d_v, d_bias = backwards.call(backward, ins, outs, carry=spec.causal)
    keys = [_whole(part, x) for part, x in zip((d_quad_q, d_quad_k, d_lin_q, d_lin_k), operands, strict=False)]
    return (*keys, d_v, jnp.sum(d_bias, axis=(0, 1)).astype(bias.dtype))


_attend.defvjp(_attend_forward, _attend_backward)


def _total(spec: Spec, k: Any, v: Any) -> Any:
    """[b, t, s], [b, t, e] -> w (sum of k^T v over all positions), float32 [b, s, e]; a plain XLA product."""
    return spec.weight_of(spec.chunks) * jnp.einsum("bts,bte->bse", k, v, preferred_element_type=jnp.float32)


def _whole(part: Any, like: Any) -> Any:
    """[tiles of e, b, t, s] -> the sum over tiles in the dtype of the operand."""
    return jnp.sum(part, axis=0).astype(like.dtype)
