"""The grid of a kernel, and the blocks of its operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from flashir_jax.pallas.bodies import Spec
from flashir_jax.pallas.vmem import widest_tile


@dataclass(frozen=True)
class Blocks:
    """The grid of a kernel and the blocks of its operands.

    Args:
        spec: the static arguments of the kernel.
        shape: the shape of v, [b, t, e].
        keys: s.
        dtype: the dtype of v.
        reverse: process chunks in reverse order.
    """

    spec: Spec
    shape: tuple[Any, ...]
    keys: int
    dtype: Any
    reverse: bool = False

    @property
    def tile(self) -> int:
        """The columns of e per grid step: as many as fit in VMEM, or all if no tile fits."""
        e = self.shape[2]
        return widest_tile(self.spec.chunk, self.keys, e, np.dtype(self.dtype).itemsize) or int(e)

    def call(
        self,
        body: Callable[..., None],
        ins: Sequence[tuple[str, Any]],
        outs: Sequence[str],
        *,
        carry: bool,
    ) -> tuple[Any, ...]:
        """Run a body over the grid.

        Args:
            body: `(spec, chunk, *blocks of ins, *blocks of outs, carry)`.
            ins: the operands with the kinds of their blocks.
            outs: the kinds of the results.
            carry: keep a float32 state [s, tile] across chunks, initially zero. Otherwise `carry` of the body is the
                operand of kind `state`.
        """
        count = len(ins)
        state_index = next((i for i, (kind, _) in enumerate(ins) if kind == "state"), None)

        def kernel(*refs: Any) -> None:
            state = refs[-1] if state_index is None else refs[state_index]
            if carry:

                @pl.when(pl.program_id(2) == 0)
                def _() -> None:
                    state[...] = jnp.zeros_like(state)

            body(self.spec, self._chunk(pl.program_id(2)), *refs[: count + len(outs)], state)

        results = pl.pallas_call(
            kernel,
            grid=(self.shape[0], self.shape[2] // self.tile, self.spec.chunks),
            in_specs=[self._spec(kind) for kind, _ in ins],
            out_specs=[self._spec(kind) for kind in outs],
            out_shape=[self._result(kind) for kind in outs],
            scratch_shapes=[pltpu.VMEM((self.keys, self.tile), jnp.float32)] if carry else [],
            compiler_params=_parameters(dimension_semantics=("parallel", "parallel", "arbitrary")),
            interpret=self.spec.interpret,
            name=body.__name__,
        )(*(x for _, x in ins))
        return tuple(results)

    def _chunk(self, place: Any) -> Any:
        """The chunk at a position of the grid, whose length may be symbolic."""
        return pl.num_programs(2) - 1 - place if self.reverse else place

    def _spec(self, kind: str) -> Any:
        """The block of an operand at grid position (b, tile, chunk)."""
        n, s, tile, at = self.spec.chunk, self.keys, self.tile, self._chunk

        blocks: dict[str, tuple[tuple[int | None, ...], Callable[..., tuple[Any, ...]]]] = {
            "key": ((None, n, s), lambda b, j, g: (b, at(g), 0)),
            "value": ((None, n, tile), lambda b, j, g: (b, at(g), j)),
            "bias": ((n, n), lambda b, j, g: (0, 0)),
            "state": ((None, s, tile), lambda b, j, g: (b, 0, j)),
            "key_part": ((None, None, n, s), lambda b, j, g: (j, b, at(g), 0)),
            "bias_part": ((None, None, n, n), lambda b, j, g: (j, b, 0, 0)),
        }
        return pl.BlockSpec(*blocks[kind])

    def _result(self, kind: str) -> Any:
        """The shape of a result; partial results are summed over tiles outside."""
        batch, length, e = self.shape
        tiles, n = e // self.tile, self.spec.chunk
        shape, dtype = {
            "value": ((batch, length, e), self.dtype),
            "key_part": ((tiles, batch, length, self.keys), jnp.float32),
            "bias_part": ((tiles, batch, n, n), jnp.float32),
        }[kind]
        return jax.ShapeDtypeStruct(shape, dtype)


def _parameters(**settings: Any) -> Any:
    """The compiler parameters, whose class has another name before JAX 0.7."""
    kind = getattr(pltpu, "CompilerParams", None) or getattr(pltpu, "TPUCompilerParams")  # noqa: B009
    return kind(**settings)
