"""IR dtypes as PyTorch dtypes."""

from __future__ import annotations

import torch

from flashir.ir import DType

TYPES: dict[DType, torch.dtype] = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.BOOL: torch.bool,
}


def number(value: object, dtype: DType) -> float | int | bool:
    """A constant as a Python number of the kind of its dtype."""
    assert isinstance(value, (int, float))
    return float(value) if dtype.is_float else bool(value) if dtype is DType.BOOL else int(value)
