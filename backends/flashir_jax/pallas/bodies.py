"""The bodies of the kernels: one chunk, one tile of e. `carry` is the state in VMEM, or the weighted total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

ROWS, COLUMNS = (0,), (1,)


@dataclass(frozen=True)
class Spec:
    """The static arguments of a kernel.

    Args:
        chunk: n.
        causal: the local part is causal, and the global part sees only earlier chunks.
        lin_norm: `none`, `chunk` or `chunk_mean`.
        chunks: g; may be symbolic in an export.
        interpret: run on any device, for tests.
    """

    chunk: int
    causal: bool
    lin_norm: str
    chunks: Any
    interpret: bool

    def weight(self, g: Any) -> Any:
        """The factor on the sum over the chunks that chunk g sees; 1 if the total already includes it."""
        return self.weight_of(g) if self.causal else 1.0

    def weight_of(self, seen: Any) -> Any:
        """The factor on a sum over `seen` chunks."""
        if self.lin_norm == "none":
            return 1.0
        if self.lin_norm == "chunk":
            return 1.0 / self.chunk
        return 1.0 / (self.chunk * jnp.maximum(jnp.asarray(seen, jnp.float32), 1.0))


def forward(
    spec: Spec, g: Any, quad_q: Any, quad_k: Any, lin_q: Any, lin_k: Any, v: Any, bias: Any, out: Any, carry: Any
) -> None:
    """out = relu2(quad_q quad_k^T + bias) v + w lin_q carry; then carry += lin_k^T v."""
    kernel = jnp.square(_scores(spec, quad_q, quad_k, bias))
    local = _product(kernel.astype(v.dtype), v[...])
    distant = _product(lin_q[...], carry[...].astype(v.dtype))
    out[...] = (local + spec.weight(g) * distant).astype(out.dtype)
    if spec.causal:
        carry[...] += _product(lin_k[...], v[...], ROWS, ROWS)


def backward_of_queries(spec: Spec, g: Any, lin_k: Any, v: Any, d_out: Any, d_lin_q: Any, carry: Any) -> None:
    """d lin_q = w d_out carry^T; then carry += lin_k^T v."""
    d_lin_q[...] = spec.weight(g) * _product(d_out[...], carry[...].astype(v.dtype), COLUMNS, COLUMNS)
    if spec.causal:
        carry[...] += _product(lin_k[...], v[...], ROWS, ROWS)


def backward(
    spec: Spec, g: Any, quad_q: Any, quad_k: Any, lin_k: Any, lin_q: Any, v: Any, d_out: Any, bias: Any,
    d_quad_q: Any, d_quad_k: Any, d_lin_k: Any, d_v: Any, d_bias: Any, carry: Any,
) -> None:  # fmt: skip
    """The other gradients, in reverse order. carry = sum of w lin_q^T d_out over the chunks that see this one."""
    scores = _scores(spec, quad_q, quad_k, bias)
    later = carry[...].astype(v.dtype)
    d_v[...] = (
        _product(jnp.square(scores).astype(v.dtype), d_out[...], ROWS, ROWS) + _product(lin_k[...], later)
    ).astype(d_v.dtype)
    d_lin_k[...] = _product(v[...], later, COLUMNS, COLUMNS)
    d_scores = 2.0 * scores * _product(d_out[...], v[...], COLUMNS, COLUMNS)
    narrow = d_scores.astype(v.dtype)
    d_quad_q[...] = _product(narrow, quad_k[...])
    d_quad_k[...] = _product(narrow, quad_q[...], ROWS, ROWS)

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        d_bias[...] = jnp.zeros_like(d_bias)

    d_bias[...] += d_scores
    if spec.causal:
        carry[...] += spec.weight(g) * _product(lin_q[...], d_out[...], ROWS, ROWS)


def _scores(spec: Spec, q: Any, k: Any, bias: Any) -> Any:
    """relu(q k^T + bias), 0 where masked, float32 [n, m]."""
    scores = jnp.maximum(_product(q[...], k[...], COLUMNS, COLUMNS) + bias[...].astype(jnp.float32), 0.0)
    if not spec.causal:
        return scores
    row, column = (lax.broadcasted_iota(jnp.int32, scores.shape, axis) for axis in (0, 1))
    return jnp.where(column <= row, scores, 0.0)


def _product(x: Any, y: Any, left: tuple[int, ...] = COLUMNS, right: tuple[int, ...] = ROWS) -> Any:
    """A product over the given axes in float32. float32 operands use the ambient precision, bfloat16 the default."""
    precision = None if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = ((left, right), ((), ()))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)
