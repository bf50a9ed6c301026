"""Launch the kernels of mixed_chunk_attention on operands of one dtype.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashir_torch.kernels import bodies
from flashir_torch.kernels.blocks import ACTIVE_WARPS, HALF, HOPPER, NARROW, WIDE, Blocks, blocks_of

TABLES = {torch.float32: WIDE, torch.bfloat16: NARROW, torch.float16: HALF}
Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""quad_q, quad_k, lin_q, lin_k [b, t, s], v [b, t, e], bias [n, n]."""


@dataclass(frozen=True)
class Mixed:
    """The op for some sizes. The last axis of operands must be contiguous, and no size may be 0.

    Args:
        chunk, causal, lin_norm: the attributes of the op.
        shape: the shape of v, [b, t, e].
        keys: s.
        dtype: the dtype of all operands except the bias.
        capability: the compute capability that blocks are chosen for.
    """

    chunk: int
    causal: bool
    lin_norm: str
    shape: tuple[int, int, int]
    keys: int
    dtype: torch.dtype
    capability: tuple[int, int] = HOPPER

    def forward(self, operands: Operands) -> tuple[Tensor, Tensor]:
        """The result [b, t, e], and the states that its linear part reads."""
        quad_q, quad_k, lin_q, lin_k, v, bias = operands
        states = self.sums(lin_k, v)
        return self._attend(quad_q, quad_k, lin_q, v, bias, states, mirrored=False), states

    def backward(self, operands: Operands, states: Tensor, d_out: Tensor) -> Operands:
        """The gradients of the operands; that of the bias is float32. Scores are recomputed."""
        quad_q, quad_k, lin_q, lin_k, v, bias = operands
        d_states = self.sums(lin_q, d_out, reverse=True)
        d_v = self._attend(quad_k, quad_q, lin_k, d_out, bias.t().contiguous(), d_states, mirrored=True)
        d_scores = self._score_gradients(quad_q, quad_k, d_out, v, bias)
        d_quad_q, d_lin_q = self._key_gradients(d_scores, quad_k, d_out, states, mirrored=False)
        d_quad_k, d_lin_k = self._key_gradients(d_scores, quad_q, v, d_states, mirrored=True)
        return d_quad_q, d_quad_k, d_lin_q, d_lin_k, d_v, d_scores.sum(0, dtype=torch.float32)

    @property
    def chunks(self) -> int:
        """The number of chunks, g."""
        return -(-self.shape[1] // self.chunk)

    @property
    def states(self) -> tuple[int, int, int]:
        """The shape of the states: one before each chunk, [b g, s, e]; if not causal, a single one, [b, s, e]."""
        batch, _, width = self.shape
        return batch * (self.chunks if self.causal else 1), self.keys, width

    @property
    def _by_place(self) -> bool:
        """Whether the weight of a state depends on the number of chunks before it."""
        return self.causal and self.lin_norm == "chunk_mean"

    @property
    def _scale(self) -> float:
        if self.lin_norm == "none":
            return 1.0
        return 1.0 / (self.chunk * (self.chunks if self.lin_norm == "chunk_mean" and not self.causal else 1))

    def sums(
        self, k: Tensor, v: Tensor, *, reverse: bool = False, active: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The weighted sums of k^T v for each chunk; if not causal, a single one.

        With `active`, a shift [e] and a tensor [b, t, e] to be written, v is silu(v + shift) before it is summed.
        """
        batch, length, width = self.shape
        blocks, span = self._blocks("states").walks(batch, length, self.chunk, self.keys, width)
        segments = -(-self.chunks // span)
        walk = partial(self._walk, k, blocks=blocks, span=span, reverse=reverse and self.causal)
        if segments == 1:
            return walk(v, active, v.new_empty(self.states))
        sizes = (batch, segments, self.keys, width)
        totals = walk(v, active, v.new_empty(sizes, dtype=torch.float32), totalling=True)
        if not self.causal:
            return (self._scale * totals.sum(1)).to(v.dtype)
        return walk(active[1] if active else v, None, v.new_empty(self.states), totals)

    def _walk(
        self, k: Tensor, v: Tensor, active: tuple[Tensor, Tensor] | None, out: Tensor, totals: Tensor | None = None,
        *, blocks: Blocks, span: int, reverse: bool, totalling: bool = False,
    ) -> Tensor:  # fmt: skip
        """One pass of `states` over segments of so many chunks, into `out`."""
        batch, length, width = self.shape
        segments = -(-self.chunks // span)
        if active is not None:
            blocks = replace(blocks, warps=ACTIVE_WARPS)
        bodies.states[batch * segments * blocks.tiles(self.keys, width),](
            k, v, *(active or (v, v)), out if totals is None else totals, out, length, self.chunks, segments, span,
            self._scale, *_strides(k, v), **self._fixed, mean=self._by_place, reverse=reverse,
            activate=active is not None, totalling=totalling, **_options(blocks),
        )  # fmt: skip
        return out

    def _attend(
        self, q: Tensor, k: Tensor, linear: Tensor, x: Tensor, bias: Tensor, state: Tensor, *, mirrored: bool
    ) -> Tensor:
        blocks = self._blocks("attend")
        batch, length, width = self.shape
        out = x.new_empty(self.shape)
        grid = (batch * self.chunks * (self.chunk // blocks.rows) * -(-width // blocks.features),)
        bodies.attend[grid](
            q, k, linear, x, bias, state, out, length, self.chunks, *_strides(q, k, linear, x),
            **self._fixed, mirrored=mirrored, **_options(blocks),
        )  # fmt: skip
        return out

    def _score_gradients(self, q: Tensor, k: Tensor, d_out: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The gradient of the scores, [b g, n, m]."""
        blocks = self._blocks("score_gradients")
        places = self.shape[0] * self.chunks
        out = v.new_empty((places, self.chunk, self.chunk))
        grid = (places * (self.chunk // blocks.rows) * (self.chunk // blocks.columns),)
        bodies.score_gradients[grid](
            q, k, d_out, v, bias, out, self.shape[1], self.chunks, *_strides(q, k, d_out, v),
            **self._fixed, **_options(blocks),
        )  # fmt: skip
        return out

    def _key_gradients(
        self, weights: Tensor, y: Tensor, x: Tensor, state: Tensor, *, mirrored: bool
    ) -> tuple[Tensor, Tensor]:
        blocks = self._blocks("key_gradients")
        d_quad, d_linear = (y.new_empty((*self.shape[:2], self.keys)) for _ in range(2))
        turned = (1, self.chunk) if mirrored else (self.chunk, 1)
        grid = (self.shape[0] * self.chunks * (self.chunk // blocks.rows),)
        bodies.key_gradients[grid](
            weights, y, x, state, d_quad, d_linear, self.shape[1], self.chunks, *turned, *_strides(y, x),
            **self._fixed, mirrored=mirrored, **_options(blocks),
        )  # fmt: skip
        return d_quad, d_linear

    @property
    def _fixed(self) -> dict[str, Any]:
        return {"chunk": self.chunk, "keys": self.keys, "width": self.shape[2], "causal": self.causal}

    def _blocks(self, kernel: str) -> Blocks:
        return blocks_of(TABLES[self.dtype], kernel, self.capability).within(self.chunk, self.keys, self.shape[2])


def _options(blocks: Blocks) -> dict[str, int]:
    """The block sizes and options of a kernel; `states` has no columns."""
    sizes = {"rows": blocks.rows, "columns": blocks.columns, "key_block": blocks.keys, "features": blocks.features}
    present = {name: size for name, size in sizes.items() if size}
    return {**present, "num_warps": blocks.warps, "num_stages": blocks.stages}


def _strides(*xs: Tensor) -> list[int]:
    """The batch and row strides of each tensor."""
    return [stride for x in xs for stride in x.stride()[:2]]
