"""Types of values: a dtype and a shape of known or symbolic sizes, such as `f32[B, T, 768]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np
import numpy.typing as npt

from flashir.arguments import shown
from flashir.errors import IRError, suggest
from flashir.ir.dims import Dim, Size, evaluate, substitute
from flashir.ir.limits import LARGEST_SIZE, MOST_AXES, MOST_ELEMENTS

Array = npt.NDArray[np.generic]
Shape = tuple[Size, ...]


class DType(Enum):
    """Element types, named as in the IR text."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    BOOL = "bool"

    def __str__(self) -> str:
        return self.value

    __repr__ = __str__

    @property
    def is_float(self) -> bool:
        """Whether this is one of the floating-point types."""
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return _BYTES[self]

    @property
    def reference_dtype(self) -> np.dtype[np.generic]:
        """The NumPy dtype in which the interpreter computes: float64 for floats, int64 for integers."""
        return np.dtype(np.float64 if self.is_float else np.bool_ if self is DType.BOOL else np.int64)

    @staticmethod
    def named(name: str) -> DType:
        """The dtype of an IR name (`f16`) or a long name (`float16`). Raises IRError if there is none."""
        long = {
            "float64": "f64",
            "float32": "f32",
            "float16": "f16",
            "bfloat16": "bf16",
            "int64": "i64",
            "int32": "i32",
        }
        short = long.get(name, name)
        if short not in DTYPE_NAMES:
            raise IRError(f"unknown element type {name!r}{suggest(name, DTYPE_NAMES)}")
        return DType(short)


DTYPE_NAMES = frozenset(dtype.value for dtype in DType)
_BYTES = {
    DType.F64: 8, DType.I64: 8, DType.F32: 4, DType.I32: 4, DType.F16: 2, DType.BF16: 2, DType.BOOL: 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """A dtype and a shape. A symbolic size is a `Dim`.

    Raises IRError if a size is negative or too large, or there are too many axes or elements.
    """

    dtype: DType
    shape: Shape

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, DType):
            raise IRError(f"an element type must be a DType, such as DType.F32, got {shown(self.dtype)}")
        if not isinstance(self.shape, tuple):
            raise IRError(f"a shape must be a tuple of sizes, got {shown(self.shape)}")
        count = 1
        for size in self.shape:
            if type(size) is int:
                known = size
            elif isinstance(size, (int, Dim)) and not isinstance(size, bool):
                known = size if isinstance(size, int) else size.divisor
            else:
                raise IRError(f"a size must be a whole number, or symbolic, got {shown(size)}")
            if not 0 <= known <= LARGEST_SIZE:
                raise IRError(f"a size must lie between 0 and {LARGEST_SIZE}, got {size} in {self}")
            count *= known
        if len(self.shape) > MOST_AXES:
            raise IRError(f"a tensor has at most {MOST_AXES} axes, {self} has {len(self.shape)}")
        if count > MOST_ELEMENTS:
            raise IRError(f"a tensor has at most {MOST_ELEMENTS} elements, {self} has {count} or more")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a type without symbols. Raises IRError if there is one."""
        known = tuple([size for size in self.shape if isinstance(size, int)])
        if len(known) < len(self.shape):
            raise IRError(f"{self} still has symbolic sizes")
        return known

    @property
    def count(self) -> int:
        """Number of elements of a type without symbols."""
        return prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes of the tensor of a type without symbols."""
        return self.count * self.dtype.bytes

    def with_shape(self, shape: Shape) -> TensorType:
        """The same dtype with another shape."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another dtype."""
        return TensorType(dtype, self.shape)

    def bind(self, bindings: Mapping[str, int]) -> TensorType:
        """The type with every symbol replaced by its value. Raises IRError if one has none."""
        return self.with_shape(tuple(evaluate(size, bindings) for size in self.shape))

    def substitute(self, bindings: Mapping[str, Size]) -> TensorType:
        """The type with some symbols replaced by other sizes."""
        return self.with_shape(tuple(substitute(size, bindings) for size in self.shape))


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that NumPy broadcasts to. Raises IRError if two sizes differ and neither is 1."""
    rank = max(map(len, shapes))
    result: list[Size] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise IRError(f"shapes {' and '.join(map(shape_text, shapes))} do not broadcast on axis {axis}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def shape_text(shape: Shape) -> str:
    """A shape as the IR writes it."""
    return f"[{', '.join(map(str, shape))}]"
