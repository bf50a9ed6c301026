"""Layers of flashir as flax.nnx modules, for custom models.

from flashir_jax import nnx as layers

layer = layers.FLASH(512, key_dim=128, rngs=nnx.Rngs(0))  # settings of the op `flash`
y = layer(x, mask)                              # x [b, t, 512] -> y [b, t, 512], norm and residual included
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from flashir.errors import TargetError
from flashir.execution.layers import LAYERS
from flashir.ir import Attr
from flashir_jax.layer import Adapter

try:
    from flax import nnx
except ImportError as error:
    raise TargetError("flax.nnx is not installed", where="jax", hint="pip install flax") from error


class Layer(nnx.Module):
    """x [b, t, width] -> y [b, t, width], norm and residual included.

    Its parameters have local names, such as `norm.scale` or `proj_in.weight`.

    Args:
        width: d of x.
        rngs: the random streams; parameters are drawn from the stream `params`.
        target: the target for planning an open chunk, which parameters depend on; by default the available
            accelerator, or the CPU.
        batch, seq_len: the typical workload; other batches and lengths work too.
        param_dtype: the dtype of the parameters. The compute dtype is that of x.
        settings: the settings of the op, such as `key_dim=128`; `chunk=256` sets the chunk by hand.

    Raises:
        SettingError: lists every setting that is unknown, invalid, or does not fit the width.
        TargetError: as for `flashir.plan`.
    """

    op: ClassVar[str]

    def __init__(
        self,
        width: int,
        *,
        rngs: nnx.Rngs,
        target: str | None = None,
        batch: int = 1,
        seq_len: int = 4096,
        param_dtype: Any = jnp.float32,
        **settings: Attr,
    ) -> None:
        self.adapter = Adapter.of(self.op, width, target, batch, seq_len, settings)
        groups: dict[str, dict[str, Any]] = {}
        for name, array in self.adapter.init(rngs.params(), param_dtype).items():
            group, _, local = name.rpartition(".")
            groups.setdefault(group, {})[local] = nnx.Param(array)
        for group, params in groups.items():
            setattr(self, group, nnx.Dict(params))

    def __call__(self, x: Any, mask: Any = None) -> Any:
        """x [b, t, width] -> y [b, t, width], in the type of x.

        Args:
            x: floats.
            mask: bool [b, t], False for padding, which no token attends to.

        Raises InputError for a wrong dtype or shape, and if values are known, for rows of the mask without a token.
        """
        names = (name.rpartition(".") for name in self.adapter.layer.params)
        params = {f"{group}.{local}": getattr(self, group)[local][...] for group, _, local in names}
        return self.adapter(params, x, mask)


class FLASH(Layer):
    """The gated attention unit with mixed chunk attention (Code 8): linear in the length."""

    op = LAYERS["FLASH"]


class GAU(Layer):
    """The gated attention unit with quadratic attention (Code 6)."""

    op = LAYERS["GAU"]


class MixedChunkAttention(Layer):
    """Multi-head mixed chunk attention, as in MC-TFM++ (4.3)."""

    op = LAYERS["MixedChunkAttention"]


class Attention(Layer):
    """Multi-head softmax attention with rotary positions."""

    op = LAYERS["Attention"]


class Performer(Layer):
    """Token-level linear attention with the ReLU kernel."""

    op = LAYERS["Performer"]


class Combiner(Layer):
    """Softmax attention to its own chunk and to summaries of the others (Appendix A)."""

    op = LAYERS["Combiner"]


class MLP(Layer):
    """Two dense layers with a GELU between them, per token."""

    op = LAYERS["MLP"]


class GLU(Layer):
    """The gated linear unit, per token."""

    op = LAYERS["GLU"]
