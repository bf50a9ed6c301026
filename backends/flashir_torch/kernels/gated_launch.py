"""Launch the kernels of gated_mixed_attention on operands of one dtype.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashir_torch.kernels import gated_bodies
from flashir_torch.kernels.blocks import GATED, HOPPER, Blocks, blocks_of
from flashir_torch.kernels.launch import Mixed


@dataclass(frozen=True)
class Kept:
    """What the backward pass reads beside the operands and the result.

    Args:
        heads: quad_q, quad_k, lin_q, lin_k, [4, b, t, s].
        states: before each chunk, [b g, s, e].
        squares: relu2 of the scores, [b g, n, n].
    """

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
        capability: the compute capability that blocks are chosen for.
    """

    chunk: int
    lin_norm: str
    scale: float
    shape: tuple[int, int, int]
    keys: int
    dtype: torch.dtype
    capability: tuple[int, int] = HOPPER

    def forward(
        self, pre: Tensor, shift: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, sin: Tensor, cos: Tensor
    ) -> tuple[Tensor, Kept]:
        """The result [b, t, e], and what is kept.

        Args:
            pre: [b, t, 2e + s].
            shift: [2e + s].
            gamma, beta: [4, s].
            bias: [n, n].
            sin, cos: [t, s / 2].
        """
        (u, v, z), (by_u, by_v, by_z) = self._parts(pre), self._parts(shift)
        heads = self._heads(z, by_z, gamma, beta, sin, cos)
        quad_q, quad_k, lin_q, lin_k = heads
        values, gated = (self._new(*self.shape, like=pre) for _ in range(2))
        states = self._mixed.sums(lin_k, v, active=(by_v, values))
        squares = self._squares(quad_q, quad_k, bias)
        blocks = self._blocks("attend")
        gated_bodies.attend[self._tiles(blocks),](
            squares, lin_q, values, states, u, by_u, gated, *self._lengths, *u.stride()[:2],
            **self._fixed, width=self.shape[2], **_options(blocks, "rows", "columns", "features"),
        )  # fmt: skip
        return gated, Kept(heads, states, squares)

    def backward(
        self, d_gated: Tensor, gated: Tensor, kept: Kept, pre: Tensor, shift: Tensor, gamma: Tensor, sin: Tensor,
        cos: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The gradients by pre, shift, gamma, beta and bias; but for the first they are float32."""
        d_pre = self._new(*pre.shape, like=pre)
        u, v, z, by_u, by_v, by_z, d_u, d_v, d_z = (part for x in (pre, shift, d_pre) for part in self._parts(x))
        quad_q, quad_k, lin_q, lin_k = kept.heads
        d_attended, u_sums = self._gate_back(d_gated, u, by_u, gated, d_u)
        d_states = self._mixed.sums(lin_q, d_attended, reverse=True)
        blocks = self._blocks("attend_back")
        values, v_sums = self._new(*self.shape, like=pre), self._sums(self._places * (self.chunk // blocks.rows), pre)
        gated_bodies.attend_back[self._tiles(blocks),](
            kept.squares, lin_k, d_attended, d_states, v, by_v, d_v, values, v_sums,
            *self._lengths, *v.stride()[:2], d_pre.stride(1),
            **self._fixed, width=self.shape[2], **_options(blocks, "rows", "columns", "features"),
        )  # fmt: skip
        blocks = self._blocks("rows_back")
        d_scores = torch.empty_like(kept.squares)
        d_quad_q, d_lin_q, d_lin_k = (torch.empty_like(quad_q) for _ in range(3))
        gated_bodies.rows_back[self._places * (self.chunk // blocks.rows),](
            kept.squares, quad_k, d_attended, values, kept.states, d_states, d_quad_q, d_lin_q, d_lin_k, d_scores,
            *self._lengths, **self._fixed, width=self.shape[2], **_options(blocks, "rows", "features"),
        )  # fmt: skip
        blocks = self._blocks("heads_back")
        programs = self._places * (self.chunk // blocks.rows)
        sums = torch.empty((programs, 9, self.keys), dtype=torch.float32, device=pre.device)
        gated_bodies.heads_back[programs,](
            d_scores, quad_q, d_quad_q, d_lin_q, d_lin_k, z, by_z, gamma, sin, cos, d_z, sums,
            *self._lengths, self.scale, *z.stride()[:2], d_pre.stride(1), **self._fixed,
            **_options(blocks, "rows", "columns"),
        )  # fmt: skip
        d_gamma, d_beta, z_sums = (part.sum(0) for part in torch.split(sums, [4, 4, 1], 1))
        d_shift = torch.cat([u_sums.sum(0), v_sums.sum(0), z_sums.flatten()])
        return d_pre, d_shift, d_gamma, d_beta, d_scores.sum(0, dtype=torch.float32)

    def _heads(self, z: Tensor, shift: Tensor, gamma: Tensor, beta: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        batch, length, _ = self.shape
        blocks, rows = self._blocks("heads"), batch * length
        heads = self._new(4, batch, length, self.keys, like=z)
        gated_bodies.heads[-(-rows // blocks.rows),](
            z, shift, gamma, beta, sin, cos, heads, length, self.scale, *z.stride()[:2], rows,
            keys=self.keys, **_options(blocks, "rows"),
        )  # fmt: skip
        return heads

    def _squares(self, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        blocks, places = self._blocks("squares"), self._places
        out = self._new(places, self.chunk, self.chunk, like=q)
        grid = (places * (self.chunk // blocks.rows) * (self.chunk // blocks.columns),)
        gated_bodies.squares[grid](
            q, k, bias, out, *self._lengths, **self._fixed, **_options(blocks, "rows", "columns")
        )
        return out

    def _gate_back(
        self, d_gated: Tensor, u: Tensor, shift: Tensor, gated: Tensor, d_u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradient by what was gated, and parts of the sum of d_u over rows, which it writes."""
        batch, length, width = self.shape
        blocks, d_attended = self._blocks("gate_back"), torch.empty_like(gated)
        parts = -(-batch * length // blocks.rows)
        sums = self._sums(parts, u)
        gated_bodies.gate_back[parts * -(-width // blocks.features),](
            d_gated, u, shift, gated, d_attended, d_u, sums, length, batch * length, *u.stride()[:2], d_u.stride(1),
            width=width, **_options(blocks, "rows", "features"),
        )  # fmt: skip
        return d_attended, sums

    def _parts(self, pre: Tensor) -> tuple[Tensor, ...]:
        """u, v and z as views, or their parts of a shift."""
        width = self.shape[2]
        return torch.split(pre, [width, width, self.keys], -1)

    def _new(self, *shape: int, like: Tensor) -> Tensor:
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def _sums(self, parts: int, like: Tensor) -> Tensor:
        """Parts of a sum over all rows, [parts, e]."""
        return torch.empty((parts, self.shape[2]), dtype=torch.float32, device=like.device)

    @property
    def _mixed(self) -> Mixed:
        return Mixed(self.chunk, True, self.lin_norm, self.shape, self.keys, self.dtype, self.capability)

    @property
    def kept_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of `Kept`, in order."""
        batch, length, _ = self.shape
        squares = (self._places, self.chunk, self.chunk)
        return (4, batch, length, self.keys), self._mixed.states, squares

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
        return blocks_of(GATED, kernel, self.capability).within(self.chunk, self.keys, self.shape[2])


def _options(blocks: Blocks, *sizes: str) -> dict[str, int]:
    """The named block sizes, and the compile options."""
    return {**{name: getattr(blocks, name) for name in sizes}, "num_warps": blocks.warps, "num_stages": blocks.stages}
