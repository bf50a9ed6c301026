"""mixed_chunk_attention on operands of one type: which kernels run, over what.

Axes: b batch, t length, g chunks, n within a chunk, s key, e expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashir_torch.kernels import bodies
from flashir_torch.kernels.blocks import NARROW, WIDE, Blocks

Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""quad_q, quad_k, lin_q, lin_k [b, t, s], v [b, t, e], bias [n, n]"""


@dataclass(frozen=True)
class Mixed:
    """The op for some sizes. The last axis of what it is given has no gaps; none is empty.

    Args:
        chunk, causal, lin_norm: as the op has them.
        shape: of v, [b, t, e].
        keys: s.
        dtype: of all operands but the bias.
    """

    chunk: int
    causal: bool
    lin_norm: str
    shape: tuple[int, int, int]
    keys: int
    dtype: torch.dtype

    def forward(self, operands: Operands) -> tuple[Tensor, Tensor]:
        """The result [b, t, e], and the states that its linear part has read."""
        quad_q, quad_k, lin_q, lin_k, v, bias = operands
        states = self._states(lin_k, v)
        return self._attend(quad_q, quad_k, lin_q, v, bias, states, mirrored=False), states

    def backward(self, operands: Operands, states: Tensor, d_out: Tensor) -> Operands:
        """Gradients by the operands, that by the bias in float32. Scores are made anew, not kept."""
        quad_q, quad_k, lin_q, lin_k, v, bias = operands
        wanted = self._states(lin_q, d_out, reverse=True)
        d_v = self._attend(quad_k, quad_q, lin_k, d_out, bias.t().contiguous(), wanted, mirrored=True)
        d_scores = self._score_gradients(quad_q, quad_k, d_out, v, bias)
        d_quad_q, d_lin_q = self._key_gradients(d_scores, quad_k, d_out, states, mirrored=False)
        d_quad_k, d_lin_k = self._key_gradients(d_scores, quad_q, v, wanted, mirrored=True)
        return d_quad_q, d_quad_k, d_lin_q, d_lin_k, d_v, d_scores.sum(0, dtype=torch.float32)

    @property
    def chunks(self) -> int:
        """g"""
        return -(-self.shape[1] // self.chunk)

    @property
    def states(self) -> tuple[int, int, int]:
        """The shape of the states: one before each chunk, [b g, s, e]; not causal, one for all, [b, s, e]."""
        batch, _, width = self.shape
        return batch * (self.chunks if self.causal else 1), self.keys, width

    @property
    def _by_place(self) -> bool:
        """Whether the weight of a state depends on how many chunks are before it."""
        return self.causal and self.lin_norm == "chunk_mean"

    @property
    def _scale(self) -> float:
        if self.lin_norm == "none":
            return 1.0
        return 1.0 / (self.chunk * (self.chunks if self.lin_norm == "chunk_mean" and not self.causal else 1))

    def _states(self, k: Tensor, v: Tensor, *, reverse: bool = False) -> Tensor:
        """The weighted sum of k^T v that each chunk is given; not causal, one for all."""
        batch, length, width = self.shape
        blocks = self._blocks("states").spread(batch, self.keys, width)
        out = v.new_empty(self.states)
        bodies.states[batch * blocks.tiles(self.keys, width),](
            k, v, out, length, self.chunks, self._scale, *_strides(k, v),
            **self._fixed, mean=self._by_place, reverse=reverse and self.causal, **_options(blocks),
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
        """[b g, n, m]"""
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
        table = WIDE if self.dtype == torch.float32 else NARROW
        return table[kernel].within(self.chunk, self.keys, self.shape[2])


def _options(blocks: Blocks) -> dict[str, int]:
    """What a kernel is told of its blocks; `states` has no columns."""
    made = {"rows": blocks.rows, "columns": blocks.columns, "key_block": blocks.keys, "features": blocks.features}
    given = {name: size for name, size in made.items() if size}
    return {**given, "num_warps": blocks.warps, "num_stages": blocks.stages}


def _strides(*xs: Tensor) -> list[int]:
    """From row to row of a batch, and of a sequence, for each."""
    return [stride for x in xs for stride in x.stride()[:2]]
