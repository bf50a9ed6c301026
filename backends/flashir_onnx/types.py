"""IR types as ONNX types. All integers are int64, as runtimes expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from flashir.errors import TargetError
from flashir.ir import DType, TensorType

ELEMENT_TYPES: dict[DType, int] = {
    DType.F64: TensorProto.DOUBLE,
    DType.F32: TensorProto.FLOAT,
    DType.F16: TensorProto.FLOAT16,
    DType.I64: TensorProto.INT64,
    DType.I32: TensorProto.INT64,
    DType.BOOL: TensorProto.BOOL,
}


def check_dtypes(dtypes: Iterable[DType]) -> None:
    """Raise TargetError that lists the dtypes in which ONNX Runtime does not compute."""
    wrong = sorted({str(dtype) for dtype in dtypes if dtype not in ELEMENT_TYPES})
    if wrong:
        raise TargetError(
            f"ONNX Runtime does not compute in {', '.join(wrong)} on this device", hint="use float32 or float16"
        )


def element_type(dtype: DType) -> int:
    """The ONNX element type of a supported dtype."""
    return ELEMENT_TYPES[dtype]


def numpy_type(dtype: DType) -> np.dtype[Any]:
    """The NumPy dtype of an element in ONNX Runtime."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type(dtype)))


def value_info(name: str, type_: TensorType, symbols: Mapping[str, str]) -> ValueInfoProto:
    """A typed name. Symbolic sizes get their names in `symbols`; other unknown sizes have none."""
    shape = [size if isinstance(size, int) else symbols.get(str(size)) for size in type_.shape]
    return helper.make_tensor_value_info(name, element_type(type_.dtype), shape)
