"""One op of flashir as a function of parameters and x, for the layers of flax.nnx and of Equinox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from flashir.backends.lowering import Lowering
from flashir.execution.layers import Layer
from flashir.ir import Attr, DType
from flashir.planning.workload import Workload
from flashir.transforms.set_dtype import retyped
from flashir_jax.devices import device_names
from flashir_jax.functions import Function, function
from flashir_jax.own_code import ArraySignature, drawn

DTYPES = {np.dtype(jnp.float64): DType.F64, np.dtype(jnp.bfloat16): DType.BF16, np.dtype(jnp.float16): DType.F16}


@dataclass(frozen=True)
class Adapter:
    """A layer with a settled chunk, and the workload that its strategies are planned for.

    Args:
        layer: the layer.
        target: `jax:` and a device.
        workload: the typical batch and length.
    """

    layer: Layer
    target: str
    workload: Workload

    @staticmethod
    def of(op: str, width: int, target: str | None, batch: int, seq_len: int, settings: Mapping[str, Attr]) -> Adapter:
        """An adapter from the arguments of a user. The default target is the last device of JAX, an accelerator if any.

        Raises:
            SettingError: lists every setting that is unknown, invalid, or does not fit the width.
            TargetError: as for `flashir.plan`.
        """
        target = f"jax:{device_names()[-1]}" if target is None else target
        return Adapter(Layer.of(op, width, settings).planned(target, batch, seq_len), target, Workload(batch, seq_len))

    def init(self, key: Any, dtype: Any) -> dict[str, Any]:
        """New parameters by local name."""
        return drawn(self.layer.params, key, dtype)

    def __call__(self, params: Mapping[str, Any], x: Any, mask: Any = None) -> Any:
        """x [b, t, width] -> y [b, t, width], in the type of x.

        Raises InputError for a wrong dtype or shape, and if values are known, for rows of the mask without a token.
        """
        dtype = DTYPES.get(np.dtype(getattr(x, "dtype", np.float32)), DType.F32)
        signature, call = _code(self, mask is not None, dtype)
        return call(params, *signature.checked(signature.collected((x,) if mask is None else (x, mask), {})))


@lru_cache(maxsize=256)
def _code(adapter: Adapter, masked: bool, dtype: DType) -> tuple[ArraySignature, Function]:
    settled = adapter.layer.settled(adapter.target, adapter.workload, masked=masked)
    graph = settled.planned if dtype is DType.F32 else retyped(settled.planned, dtype)
    return ArraySignature(settled.model), function(Lowering.of(adapter.target).run(graph))
