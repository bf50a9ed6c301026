"""Convert arrays of PyTorch, JAX and ml_dtypes to NumPy exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import DType

Array = npt.NDArray[Any]

TAKEN = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that a parameter may have. float8 is not one of them, since its values depend on separate scales."""


def as_array(source: Any) -> Array:
    """Convert an array of any library, or nested lists, to NumPy with the same values.

    bfloat16 becomes float32, since NumPy has no bfloat16. A PyTorch tensor may be on a GPU, or require a gradient.

    Raises:
        ValueError: it is not an array, is masked, or has no NumPy dtype; the message says which.
    """
    if isinstance(source, np.ma.MaskedArray) and np.ma.is_masked(source):
        raise ValueError("must be an array, got a masked one, whose masked values are unknown")
    try:
        if hasattr(source, "detach") and hasattr(source, "cpu"):  # a PyTorch tensor, without importing PyTorch
            source = source.detach().cpu()
            if str(source.dtype) == "torch.bfloat16":
                source = source.float()
        array = np.asarray(source)
    except Exception as error:  # such as a ragged list, a sparse tensor, or a tensor without data
        if isinstance(source, list | tuple):
            raise ValueError("must be an array, got rows of several lengths") from None
        raise ValueError(f"must be an array, got a {type(source).__name__}: {error}") from None
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def as_float(source: Any, dtype: npt.DTypeLike) -> Array:
    """Convert an array of floats to another float dtype, in native byte order. Values that overflow become infinite.

    Raises:
        ValueError: as for `as_array`, or the array does not hold floats of a dtype in `TAKEN`.
    """
    array = as_array(source)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"must hold floating-point numbers ({', '.join(TAKEN)}), got {array.dtype}")
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype)


def widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Convert bfloat16, given as its bits, to float32: the same bits followed by 16 zeros."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def rounded(array: Array, dtype: DType) -> Array:
    """The array with every number rounded to the nearest one of a narrow type. Other types leave it as it is."""
    if dtype not in (DType.F16, DType.BF16):
        return array
    with np.errstate(over="ignore"):  # what is out of range becomes infinite
        narrow = array.astype(np.float16 if dtype is DType.F16 else np.float32)
    if dtype is DType.F16:
        return narrow.astype(array.dtype)
    bits = narrow.view(np.uint32)
    halfway = ((bits >> 16) & 1) + 0x7FFF  # ties go to the even number
    return np.where(np.isnan(array), array, ((bits + halfway) & 0xFFFF0000).astype(np.uint32).view(np.float32))


def native(array: Array) -> Array:
    """The array contiguous and in native byte order, without a copy if it already is."""
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")
