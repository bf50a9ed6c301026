"""Arrays of other libraries as arrays of numpy: what PyTorch, JAX and ml_dtypes hold, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TAKEN = ("float16", "bfloat16", "float32", "float64")
"""The types that a parameter may have. A float8 is none of them: without its scales it says no number."""


def as_array(given: Any) -> Array:
    """An array of any library, or nested lists, as one of numpy; its numbers stay the same.

    A bfloat16 becomes a float32, which holds each of them: numpy itself knows no such type. A tensor of PyTorch may
    lie on a card, or require a gradient.

    Raises:
        ValueError: it is no array, is masked, or holds what numpy has no type for; the message says which.
    """
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise ValueError("must be an array, got a masked one, whose masked numbers are not known")
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):  # a tensor of PyTorch, which need not be imported
            given = given.detach().cpu()
            if str(given.dtype) == "torch.bfloat16":
                given = given.float()
        array = np.asarray(given)
    except Exception as error:  # each library has its own: a ragged list, a sparse tensor, one without data
        if isinstance(given, list | tuple):
            raise ValueError("must be an array, got rows of several lengths") from None
        raise ValueError(f"must be an array, got a {type(given).__name__}: {error}") from None
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def as_float(given: Any, dtype: npt.DTypeLike) -> Array:
    """An array of floating-point numbers, in native byte order and of another such type.

    Numbers that the type cannot hold become infinite.

    Raises:
        ValueError: as `as_array`; or it holds no floating-point numbers, or those of a type that is not `TAKEN`.
    """
    array = as_array(given)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"must hold floating-point numbers ({', '.join(TAKEN)}), got {array.dtype}")
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype)


def widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """bfloat16, given by its bits, as float32: the same bits with 16 zeros behind them."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def native(array: Array) -> Array:
    """The array in this machine's byte order, its numbers one after the other; itself where it is so already."""
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")
