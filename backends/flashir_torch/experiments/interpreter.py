"""Triton's interpreter with the rounding of GPUs, for tests and rehearsals."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

NAN = 0x7FC0


def round_as_gpus_do() -> None:
    """Round float32 to the nearest bfloat16, ties to even, for the rest of the process.

    The interpreter cuts the last bits off, so errors are three times as large, and all to one side.
    """
    builder: Any = interpreter.InterpreterBuilder
    before = builder.cast_impl

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
            return before(self, src, dst_type)
        return interpreter.TensorHandle(nearest(src.data), dst_type.scalar)

    builder.cast_impl = cast


def nearest(wide: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of the nearest bfloat16 of float32 numbers."""
    bits = np.asarray(wide, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(wide), NAN, rounded).astype(np.uint16)
