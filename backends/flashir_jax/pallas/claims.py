"""The nodes that have a kernel. Works without JAX, for plans."""

from __future__ import annotations

from collections.abc import Callable

from flashir.ir import DType, Node
from flashir.ops.attention.recurrence import is_mixed_chunk
from flashir_jax.pallas.vmem import LANES, widest_tile


def _mixed(node: Node) -> bool:
    """Mixed chunk attention without segments, in float32 or bfloat16, that fits the vectors and the VMEM of a core.

    The kernel is the strategy `scan`, so choosing a strategy chooses between the kernel and its alternatives; without
    causality there is no choice. The chunk and e must be multiples of 128 lanes. Otherwise blocks would be padded, and
    XLA is equally fast.
    """
    if not is_mixed_chunk(node):
        return False
    v, quad_q, *_ = node.operands
    chunk, keys, e, dtype = node.attrs["chunk"], quad_q.type.shape[-1], v.type.shape[-1], v.type.dtype
    scans = node.attrs["cumsum"] == "scan" or not node.attrs["causal"]
    if not scans or dtype not in (DType.F32, DType.BF16):
        return False
    if not (isinstance(chunk, int) and isinstance(keys, int) and isinstance(e, int)):
        return False
    return chunk % LANES == 0 and e % LANES == 0 and widest_tile(chunk, keys, e, dtype.bytes) > 0


KERNELS: dict[str, Callable[[Node], bool]] = {"chunked_recurrence": _mixed}
"""The ops with a kernel, each with its condition; `table.py` has the kernels."""


def has_kernel(node: Node) -> bool:
    """Whether a TPU has a kernel for this node."""
    return node.op in KERNELS and KERNELS[node.op](node)
