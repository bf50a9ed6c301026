"""Which nodes have a kernel, and under what conditions. Neither PyTorch nor Triton here: a plan asks as well."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from flashir.errors import TargetError
from flashir.ir import DType, Node
from flashir.ops.attention.recurrence import is_mixed_chunk

DEVICES = frozenset(("cuda", "a100", "h100", "h200"))
"""Triton compiles for compute capability 8.0 and above, which a v100 has not."""

CAPABILITY = (8, 0)
"""What Triton wants of a card."""

LEAST_CHUNK = 16
MOST_KEYS = 128
"""s; a block of rows has all of them."""


def _mixed(node: Node) -> bool:
    """Mixed chunk attention without segments, in a narrow type or float32, if blocks divide the chunk.

    The kernel is the strategy `scan`, so who chooses a strategy, by cost or by hand, chooses the kernel or its
    alternatives; without causality there are none.
    """
    if not is_mixed_chunk(node):
        return False
    v, quad_q, *_ = node.operands
    chunk, keys, e, dtype = node.attrs["chunk"], quad_q.type.shape[-1], v.type.shape[-1], v.type.dtype
    scans = node.attrs["cumsum"] == "scan" or not node.attrs["causal"]
    if not scans or dtype not in (DType.F32, DType.BF16, DType.F16):
        return False
    if not (isinstance(chunk, int) and isinstance(keys, int) and isinstance(e, int)):
        return False
    return chunk >= LEAST_CHUNK and chunk & (chunk - 1) == 0 and 0 < keys <= MOST_KEYS


KERNELS: dict[str, Callable[[Node], bool]] = {"chunked_recurrence": _mixed}
"""The ops that have one, each with its condition."""


def has_kernel(node: Node, device: str) -> bool:
    """Whether a device has a kernel for this node."""
    return device in DEVICES and node.op in KERNELS and KERNELS[node.op](node)


def need_triton() -> None:
    """Raises TargetError where Triton is not installed."""
    if find_spec("triton") is None:
        raise TargetError(
            "Triton is not installed, in which kernels for CUDA are written",
            where="torch",
            hint="pip install triton; or lower the model for torch:v100 or torch:cpu, which have no kernels",
        )
