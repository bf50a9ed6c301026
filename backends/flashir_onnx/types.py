"""Element types and tensor types of the IR as ONNX has them. Whole numbers are int64 there, as runtimes expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from flashir.ir import DType, TensorType

ELEMENT_TYPES: dict[DType, int] = {
    DType.F64: TensorProto.DOUBLE,
    DType.F32: TensorProto.FLOAT,
    DType.F16: TensorProto.FLOAT16,
    DType.I64: TensorProto.INT64,
    DType.I32: TensorProto.INT64,
    DType.BOOL: TensorProto.BOOL,
}


def element_type(dtype: DType) -> int:
    """The ONNX number of an element type that the backend supports."""
    return ELEMENT_TYPES[dtype]


def numpy_type(dtype: DType) -> np.dtype[Any]:
    """The numpy type that carries an element type to ONNX Runtime."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type(dtype)))


def value_info(name: str, type_: TensorType, symbols: Mapping[str, str]) -> ValueInfoProto:
    """A typed name; symbolic sizes go by the names given, other sizes that are not known stay open."""
    shape = [size if isinstance(size, int) else symbols.get(str(size)) for size in type_.shape]
    return helper.make_tensor_value_info(name, element_type(type_.dtype), shape)
