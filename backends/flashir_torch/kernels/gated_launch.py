"""Launch the kernels of gated_mixed_attention on operands of one dtype.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from flashir_torch.kernels import gated_bodies
from flashir_torch.kernels.blocks import GATED, Blocks
from flashir_torch.kernels.launch import Mixed


@dataclass(frozen=True)
class Kept:
    """What the backward pass reads beside the operands.

    Args:
        attended: the result before its gate, [b, t, e].
        v: after its silu, [b, t, e].
        heads: quad_q, quad_k, lin_q, lin_k, [4, b, t, s].
        states: before each chunk, [b g, s, e].
        squares: relu2 of the scores, [b g, n, n].
    """

    attended: Tensor
    v: Tensor
    heads: Tensor
    states: Tensor
    squares: Tensor


@dataclass(frozen=True)
class Gated:
    """The op for some sizes, causal. No size may be 0.

    Args:
        chunk, lin_norm, scale: the attributes of the op.
        shape: [b, t, e].
        keys: s, a power of two.
        dtype: the dtype of `pre`.
    """

    chunk: int
    lin_norm: str
    scale: float
    shape: tuple[int, int, int]
    keys: int
    dtype: torch.dtype

    def forward(
        self, pre: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, sin: Tensor, cos: Tensor
    ) -> tuple[Tensor, Kept]:
        """The result [b, t, e], and what is kept. pre [b, t, 2e + s], gamma, beta [4, s], sin, cos [t, s / 2]."""
        u, v, z = self._parts(pre)
        values, heads = silu(v), self._heads(z, gamma, beta, sin, cos)
        quad_q, quad_k, lin_q, lin_k = heads
        states = self._mixed.sums(lin_k, values)
        squares = self._squares(quad_q, quad_k, bias)
        blocks, (attended, gated) = self._blocks("attend"), (values.new_empty(self.shape) for _ in range(2))
        gated_bodies.attend[self._tiles(blocks),](
            squares, lin_q, values, states, u, attended, gated, *self._lengths, *u.stride()[:2],
            **self._fixed, width=self.shape[2], **_options(blocks, "rows", "columns", "features"),
        )  # fmt: skip
        return gated, Kept(attended, values, heads, states, squares)

    def backward(
        self, d_gated: Tensor, kept: Kept, pre: Tensor, gamma: Tensor, sin: Tensor, cos: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients by pre, gamma, beta and bias; but for the first they are float32."""
        (u, v, z), d_pre = self._parts(pre), torch.empty(pre.shape, dtype=pre.dtype, device=pre.device)
        d_u, d_v, d_z = self._parts(d_pre)
        quad_q, quad_k, lin_q, lin_k = kept.heads
        d_attended = self._gate_back(d_gated, u, kept.attended, d_u)
        d_states = self._mixed.sums(lin_q, d_attended, reverse=True)
        blocks = self._blocks("attend_back")
        gated_bodies.attend_back[self._tiles(blocks),](
            kept.squares, lin_k, d_attended, d_states, v, d_v, *self._lengths, *v.stride()[:2], d_pre.stride(1),
            **self._fixed, width=self.shape[2], **_options(blocks, "rows", "columns", "features"),
        )  # fmt: skip
        blocks = self._blocks("rows_back")
        d_scores = torch.zeros_like(kept.squares)
        d_quad_q, d_lin_q, d_lin_k = (torch.empty_like(quad_q) for _ in range(3))
        gated_bodies.rows_back[self._places * (self.chunk // blocks.rows),](
            kept.squares, quad_k, d_attended, kept.v, kept.states, d_states, d_quad_q, d_lin_q, d_lin_k, d_scores,
            *self._lengths, **self._fixed, width=self.shape[2], **_options(blocks, "rows", "features"),
        )  # fmt: skip
        blocks = self._blocks("heads_back")
        programs = self._places * (self.chunk // blocks.rows)
        sums = torch.empty((programs, 2, 4, self.keys), dtype=torch.float32, device=pre.device)
        gated_bodies.heads_back[programs,](
            d_scores, quad_q, d_quad_q, d_lin_q, d_lin_k, z, gamma, sin, cos, d_z, sums,
            *self._lengths, self.scale, *z.stride()[:2], d_pre.stride(1), **self._fixed,
            **_options(blocks, "rows", "columns"),
        )  # fmt: skip
        d_gamma, d_beta = (part.sum(0) for part in sums.unbind(1))
        return d_pre, d_gamma, d_beta, d_scores.sum(0, dtype=torch.float32)

    def _heads(self, z: Tensor, gamma: Tensor, beta: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        batch, length, _ = self.shape
        blocks, rows = self._blocks("heads"), batch * length
        heads = torch.empty((4, batch, length, self.keys), dtype=z.dtype, device=z.device)
        gated_bodies.heads[-(-rows // blocks.rows),](
            z, gamma, beta, sin, cos, heads, length, self.scale, *z.stride()[:2], rows,
            keys=self.keys, **_options(blocks, "rows"),
        )  # fmt: skip
        return heads

    def _squares(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        blocks, places = self._blocks("squares"), self._places
        out = torch.empty((places, self.chunk, self.chunk), dtype=q.dtype, device=q.device)
        grid = (places * (self.chunk // blocks.rows) * (self.chunk // blocks.columns),)
        gated_bodies.squares[grid](
            q, k, bias, out, *self._lengths, **self._fixed, **_options(blocks, "rows", "columns")
        )
        return out

    def _gate_back(self, d_gated: Tensor, u: Tensor, attended: Tensor, d_u: Tensor) -> Tensor:
        batch, length, width = self.shape
        blocks, d_attended = self._blocks("gate_back"), torch.empty_like(attended)
        grid = (-(-batch * length // blocks.rows) * -(-width // blocks.features),)
        gated_bodies.gate_back[grid](
            d_gated, u, attended, d_attended, d_u, length, batch * length, *u.stride()[:2], d_u.stride(1),
            width=width, **_options(blocks, "rows", "features"),
        )  # fmt: skip
        return d_attended

    def _parts(self, pre: Tensor) -> tuple[Tensor, ...]:
        """u, v and z as views."""
        width = self.shape[2]
        return torch.split(pre, [width, width, self.keys], -1)

    @property
    def _mixed(self) -> Mixed:
        return Mixed(self.chunk, True, self.lin_norm, self.shape, self.keys, self.dtype)

    @property
    def kept_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of `Kept`, in order."""
        batch, length, _ = self.shape
        squares = (self._places, self.chunk, self.chunk)
        return self.shape, self.shape, (4, batch, length, self.keys), self._mixed.states, squares

    @property
    def _places(self) -> int:
        return self.shape[0] * self._mixed.chunks

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.shape[1], self._mixed.chunks

    @property
    def _fixed(self) -> dict[str, Any]:
        return {"chunk": self.chunk, "keys": self.keys}

    def _tiles(self, blocks: Blocks) -> int:
        return self._places * (self.chunk // blocks.rows) * -(-self.shape[2] // blocks.features)

    def _blocks(self, kernel: str) -> Blocks:
        return GATED[kernel].within(self.chunk, self.keys, self.shape[2])


def _options(blocks: Blocks, *sizes: str) -> dict[str, int]:
    """The named block sizes, and the compile options."""
    return {**{name: getattr(blocks, name) for name in sizes}, "num_warps": blocks.warps, "num_stages": blocks.stages}
