"""One op of flashir as a function of parameters and x: what the layers of flax.nnx and of Equinox share."""

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
from flashir_jax.own_code import Given, drawn

DTYPES = {np.dtype(jnp.float64): DType.F64, np.dtype(jnp.bfloat16): DType.BF16, np.dtype(jnp.float16): DType.F16}


@dataclass(frozen=True)
class Adapter:
    """A layer, its chunk settled, and what its strategies are planned for.

    Args:
        layer: the op.
        target: `jax:` and a device.
        workload: the batch and length that are typical.
    """

    layer: Layer
    target: str
    workload: Workload

    @staticmethod
    def of(op: str, width: int, target: str | None, batch: int, seq_len: int, settings: Mapping[str, Attr]) -> Adapter:
        """An adapter from what a user gives; without a target, the last device that JAX finds: an accelerator, if any.

        Raises:
            SettingError: every setting that is unknown or wrong, or that does not fit the width.
            TargetError: as `flashir.plan`.
        """
        target = target or f"jax:{device_names()[-1]}"
        return Adapter(Layer.of(op, width, settings).planned(target, batch, seq_len), target, Workload(batch, seq_len))

    def init(self, key: Any, dtype: Any) -> dict[str, Any]:
        """Fresh parameters by local name."""
        return drawn(self.layer.params, key, dtype)

    def __call__(self, params: Mapping[str, Any], x: Any, mask: Any = None) -> Any:
        """x [b, t, width] -> y [b, t, width], in the type of x.

        Raises InputError: an array of another type or shape; where values are known, rows of a mask without a token.
        """
        dtype = DTYPES.get(np.dtype(getattr(x, "dtype", np.float32)), DType.F32)
        given, call = _code(self, mask is not None, dtype)
        return call(params, *given.checked(given.collected((x,) if mask is None else (x, mask), {})))


@lru_cache(maxsize=256)
def _code(adapter: Adapter, masked: bool, dtype: DType) -> tuple[Given, Function]:
    settled = adapter.layer.settled(adapter.target, adapter.workload, masked=masked)
    graph = settled.planned if dtype is DType.F32 else retyped(settled.planned, dtype)
    return Given(settled.model), function(Lowering.of(adapter.target).run(graph))
