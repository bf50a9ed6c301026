"""IR dtypes as JAX dtypes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from flashir.errors import TargetError
from flashir.ir import DType, Graph

_TYPES: dict[DType, Any] = {
    DType.F64: jnp.float64, DType.F32: jnp.float32, DType.F16: jnp.float16, DType.BF16: jnp.bfloat16,
    DType.I64: jnp.int64, DType.I32: jnp.int32, DType.BOOL: jnp.bool_,
}  # fmt: skip


def element_type(dtype: DType) -> np.dtype[Any]:
    """The JAX dtype of an IR dtype.

    If 64 bits are disabled in JAX, integers are int32, which holds every token id, and float64 is an error, because JAX
    would silently compute in float32.

    Raises:
        TargetError: float64, and JAX has 64 bits disabled.
    """
    if jax.dtypes.result_type(float) != np.float64:
        if dtype is DType.F64:
            raise TargetError(
                "the graph computes in float64, and JAX has 64 bits disabled",
                where="jax",
                hint="jax.config.update('jax_enable_x64', True), or use float32",
            )
        dtype = DType.I32 if dtype is DType.I64 else dtype
    result: np.dtype[Any] = np.dtype(_TYPES[dtype])
    return result


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of sums: float32 for narrow floats, otherwise the dtype itself."""
    narrow = bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.itemsize < 4
    return np.dtype(np.float32) if narrow else dtype


def in_float64(graph: Graph) -> bool:
    """Whether anything in a graph computes in float64."""
    values = (*graph.inputs, *(value for node in graph.walk() for value in node.outputs))
    return any(value.type.dtype is DType.F64 for value in values)


def enough_bits(wide: bool) -> AbstractContextManager[Any]:
    """A context with 64 bits enabled if `wide`; otherwise the setting is unchanged."""
    if not wide:
        return nullcontext()
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # older versions
    context: AbstractContextManager[Any] = home.enable_x64(True)
    return context
